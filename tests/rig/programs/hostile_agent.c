/* An agent that does a pod harm: it speaks ttrpc with the guest's host on its standard input, runs nothing,
   and misbehaves as the pod's host name says. Its streams never end. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define HOST 0
#define STREAM_PORT 1025
#define LONGEST (4 << 20)
/* Of ttrpc's messages. */
#define HEADER 10
#define REQUEST 1
#define ANSWER 2

static unsigned char message[HEADER + LONGEST];
static unsigned char body[LONGEST];
static char manners[64];

static int is(const char *name) { return strcmp(manners, name) == 0; }

static void read_all(unsigned char *to, size_t count) {
  while (count > 0) {
    ssize_t got = read(HOST, to, count);
    if (got <= 0) exit(0);
    to += got;
    count -= got;
  }
}

static void write_all(const unsigned char *from, size_t count) {
  while (count > 0) {
    ssize_t put = write(HOST, from, count);
    if (put <= 0) exit(0);
    from += put;
    count -= put;
  }
}

/* A field of protobuf's: bytes, or a message. */
static size_t field(unsigned char *to, int number, const void *content, size_t length) {
  unsigned char *at = to;
  *at++ = number << 3 | 2;
  size_t rest = length;
  do {
    *at++ = (rest & 127) | (rest > 127 ? 128 : 0);
    rest >>= 7;
  } while (rest > 0);
  memcpy(at, content, length);
  return at + length - to;
}

static void answer_with(uint32_t stream, const void *content, size_t length, size_t told) {
  size_t count = length == 0 ? 0 : field(message + HEADER, 2, content, length);
  uint32_t number = htonl(count + told);
  memcpy(message, &number, 4);
  number = htonl(stream);
  memcpy(message + 4, &number, 4);
  message[8] = ANSWER;
  message[9] = 0;
  write_all(message, HEADER + count);
}

static void answer(uint32_t stream, const void *content, size_t length) {
  answer_with(stream, content, length, 0);
  if (is("twice")) {
    answer_with(stream, content, length, 0);
    answer_with(stream + 1000, content, length, 0);
  }
}

/* What a container uses, of two devices that are one, in as many bytes as asked for. */
static void tell_stats(uint32_t stream, size_t length) {
  static char stats[LONGEST];
  int count = snprintf(stats, sizeof stats,
                       "{\"version\":\"v2\",\"stats\":{\"io\":{\"usage\":[{\"major\":8},{\"major\":8}]},"
                       "\"memory\":{\"usage\":18446744073709551615},"
                       "\"hugetlb\":[{\"pagesize\":\"2MB\"},{\"pagesize\":\"2MB\"}]}}");
  while ((size_t)count < length) stats[count++] = ' ';
  answer(stream, body, field(body, 1, stats, count));
}

/* Whether the request is to be answered by nothing, after whatever was done about it. */
static int serve(uint32_t stream, const char *method) {
  static const unsigned char init[] = {8, 1};
  if (!strcmp(method, "SetUp") || !strcmp(method, "StartContainer")) return 1;
  if (!strcmp(method, "CreateContainer") || !strcmp(method, "Exec")) {
    /* A process of the host's, whose first it is. */
    answer(stream, init, sizeof init);
    return 0;
  }
  if (!strcmp(method, "Wait") || is("deaf")) return 0;
  if (!strcmp(method, "OutOfMemory")) return is("flooding");
  if (!strcmp(method, "Stats")) {
    tell_stats(stream, is("huge") ? LONGEST - 100 : 0);
    return 0;
  }
  if (!strcmp(method, "Signal") && is("truncating")) {
    answer_with(stream, NULL, 0, 1000);
    for (;;) pause();
  }
  return 1;
}

/* The bytes of a field at the beginning of a message, in a text. */
static void text(char *to, size_t room, const unsigned char **at, int number) {
  const unsigned char *from = *at;
  to[0] = 0;
  if (*from++ != (number << 3 | 2)) return;
  size_t length = 0;
  int shift = 0;
  do {
    length |= (size_t)(*from & 127) << shift;
    shift += 7;
  } while (*from++ & 128);
  *at = from + length;
  if (length < room) {
    memcpy(to, from, length);
    to[length] = 0;
  }
}

/* Takes all connections, and lets go of none. */
static void hold_streams(void) {
  if (fork() != 0) return;
  prctl(PR_SET_PDEATHSIG, 9);
  close(HOST);
  struct sockaddr_vm any = {.svm_family = AF_VSOCK, .svm_port = STREAM_PORT, .svm_cid = VMADDR_CID_ANY};
  int door = socket(AF_VSOCK, SOCK_STREAM, 0);
  if (bind(door, (struct sockaddr *)&any, sizeof any) != 0 || listen(door, 100) != 0) exit(1);
  for (;;) accept(door, NULL, NULL);
}

int main(void) {
  hold_streams();
  static unsigned char request[LONGEST + 1];
  for (;;) {
    unsigned char header[HEADER];
    uint32_t length, stream;
    read_all(header, HEADER);
    memcpy(&length, header, 4);
    memcpy(&stream, header + 4, 4);
    length = ntohl(length);
    stream = ntohl(stream);
    if (length > LONGEST) exit(1);
    memset(request, 0, 256);
    read_all(request, length);
    if (header[8] != REQUEST) continue;
    char service[100], method[100];
    const unsigned char *at = request;
    text(service, sizeof service, &at, 1);
    text(method, sizeof method, &at, 2);
    if (!strcmp(method, "SetUp")) {
      /* The payload's first field is the pod's host name. */
      char rest[8];
      const unsigned char *payload = at;
      text(rest, sizeof rest, &at, 3);
      payload++;
      while (*payload++ & 128) {
      }
      text(manners, sizeof manners, &payload, 1);
    }
    if (serve(stream, method)) answer(stream, NULL, 0);
  }
}
