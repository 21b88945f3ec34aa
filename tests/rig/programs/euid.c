/* Set-uid root in its image: says whether that had an effect. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
  printf("Effective uid: %u\n", geteuid());
  return 0;
}
