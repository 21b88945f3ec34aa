//! Shares a pod's files with its guest: a jailed vhost-user-fs server.
