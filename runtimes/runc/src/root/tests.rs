//! Whole roots, each in namespaces of its own: what images and configurations may be like, and what must
//! not come of it. Nothing here is ever mounted where the machine could see it.

mod attacks;
mod cgroups;
mod devices;
mod idmapped;
mod mounts;
mod users;
mod world;
