//! Joins a guest to the network that CNI made for its pod.
