//! Two interfaces whose cables are one: what the one receives, the other sends.

use trefoil_netlink::read::Link;
use trefoil_netlink::{Doing, Message, Netlink};
use trefoil_os::Result;

use super::tap::Tap;

/// The place of the queueing discipline that sees what is received, and its number.
const INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
/// The filter's place among others, of which there are none, and that it is for all protocols.
const FIRST: u32 = 1 << 16;
const ALL_PROTOCOLS: u16 = libc::ETH_P_ALL as u16;
// Attributes of filters and their actions.
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
/// The filter decides about what it matches.
const TERMINAL: u8 = 1;
/// The packet is not for this network stack any more.
const STOLEN: u32 = 4;
/// It goes out by another interface.
const REDIRECT: u32 = 1;

/// Joins an interface and its tap.
pub(super) fn both_ways(netlink: &mut Netlink, link: &Link, tap: &Tap) -> Result<()> {
    one_way(netlink, (&tap.name, tap.index), (&link.name, link.index))?;
    one_way(netlink, (&link.name, link.index), (&tap.name, tap.index)).inspect_err(|_| {
        // The tap takes its own with it.
        let _ = remove(netlink, link);
    })
}

fn one_way(netlink: &mut Netlink, from: (&str, u32), to: (&str, u32)) -> Result<()> {
    let exclusive = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request = traffic(libc::RTM_NEWQDISC, exclusive, from.1, INGRESS_HANDLE)
        .u32(INGRESS)
        .u32(0)
        .text(libc::TCA_KIND, "ingress");
    netlink.request(request).doing(|| {
        format!(
            "give {} a filter for what it receives, which takes the kernel's sch_ingress \
             (CONFIG_NET_SCH_INGRESS)",
            from.0
        )
    })?;
    // struct tc_u32_sel without a key, which matches everything.
    let all = [&[TERMINAL][..], &[0; 15]].concat();
    let request = traffic(libc::RTM_NEWTFILTER, exclusive, from.1, 0)
        .u32(INGRESS_HANDLE)
        .u32(FIRST | u32::from(ALL_PROTOCOLS.to_be()))
        .text(libc::TCA_KIND, "u32")
        .nested(libc::TCA_OPTIONS, |options| {
            options
                .attribute(TCA_U32_SEL, &all)
                .nested(TCA_U32_ACT, |actions| {
                    actions.nested(1, |action| redirect(action, to.1))
                })
        });
    netlink.request(request).doing(|| {
        format!(
            "redirect what {} receives to {}, which takes the kernel's cls_u32 and act_mirred \
             (CONFIG_NET_CLS_U32, CONFIG_NET_ACT_MIRRED)",
            from.0, to.0
        )
    })
}

fn redirect(action: Message, to: u32) -> Message {
    action
        .text(TCA_ACT_KIND, "mirred")
        .nested(TCA_ACT_OPTIONS, |options| {
            // struct tc_mirred: index, capabilities, verdict, two counts, what to do, where.
            options.nested(TCA_MIRRED_PARMS, |parameters| {
                [0, 0, STOLEN, 0, 0, REDIRECT, to]
                    .into_iter()
                    .fold(parameters, Message::u32)
            })
        })
}

/// Takes the filter for what an interface receives away.
pub(super) fn remove(netlink: &mut Netlink, link: &Link) -> Result<()> {
    let request = traffic(libc::RTM_DELQDISC, 0, link.index, INGRESS_HANDLE)
        .u32(INGRESS)
        .u32(0);
    netlink
        .request(request)
        .doing(|| format!("take the filter for what {} receives away", link.name))
}

/// Begins a message on the traffic of an interface (`struct tcmsg`).
fn traffic(kind: u16, flags: libc::c_int, interface: u32, handle: u32) -> Message {
    Message::new(kind, flags).u32(0).u32(interface).u32(handle)
}
