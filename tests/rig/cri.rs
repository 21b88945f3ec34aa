//! Pods and containers, through crictl.
