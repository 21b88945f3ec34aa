//! What the volumes are called that the kubelet and containerd add to a pod's.

/// `/etc/hosts`
pub(super) const HOSTS: &str = "etc-hosts";
/// `/etc/resolv.conf`
pub(super) const RESOLVER: &str = "resolv.conf";
/// `/etc/hostname`
pub(super) const HOSTNAME: &str = "hostname";
/// `/dev/termination-log`
pub(super) const LAST_WORDS: &str = "termination-log";
/// The token, which Kubernetes calls so with five more characters.
pub(super) const TOKEN: &str = "kube-api-access";

/// Where the token is mounted.
pub(super) const TOKEN_PLACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// All of them: no volume of the manifest may be called so.
pub(super) const RESERVED: [&str; 5] = [HOSTS, RESOLVER, HOSTNAME, LAST_WORDS, TOKEN];

/// Whether Kubernetes calls the token's volume so.
pub(super) fn is_token(name: &str) -> bool {
    let rest = name
        .strip_prefix(TOKEN)
        .and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| {
        rest.len() == 5 && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}
