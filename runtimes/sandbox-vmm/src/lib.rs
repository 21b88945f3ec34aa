//! microVM pods: the host side.
