//! Whose a container's processes are, by number: as kubelet and containerd look names up in the image.

use std::collections::BTreeSet;

use trefoil_policy::User;

use crate::image::{Image, UserFile};
use crate::manifest::container::Container;
use crate::manifest::security::{GroupsPolicy, PodSecurity};
use crate::yaml::Fault;

use super::Result;
use super::fields::shorten;

/// The largest user and group that containerd takes.
const LARGEST: u32 = i32::MAX.unsigned_abs();

/// A user of `/etc/passwd`.
struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

/// A group of `/etc/group`.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: Vec<&'a str>,
}

/// Works out a container's user and groups.
///
/// # Errors
/// A name that the image doesn't know, root where the manifest forbids it, a number that is too large.
pub(super) fn of_container(
    pod: &PodSecurity,
    container: &Container,
    image: &Image,
) -> Result<User> {
    let own = &container.security_context;
    let run_as_user = own.run_as_user.or(pod.run_as_user);
    let run_as_group = own.run_as_group.or(pod.run_as_group);
    // The kubelet asks containerd for the image's user, which leaves out its group.
    let of_image = image.config.user.split(':').next().unwrap_or_default();
    let wanted = match run_as_user {
        Some(uid) => uid.to_string(),
        None if of_image.is_empty() => "0".to_owned(),
        None => of_image.to_owned(),
    };
    let field = |fault: Fault| match run_as_user {
        Some(_) => fault.in_field("runAsUser").in_field("securityContext"),
        None => fault.in_field("image"),
    };
    let strict = pod.supplemental_groups_policy == GroupsPolicy::Strict;
    if !(run_as_user.is_some() && run_as_group.is_some() && strict) {
        check_files(image).map_err(|fault| fault.in_field("image"))?;
    }
    let account = find(&wanted, image).map_err(field)?;
    let gid = run_as_group.unwrap_or(account.gid);
    if account.uid > LARGEST || gid > LARGEST {
        return Err(field(Fault::new(format!(
            "a user or group above {LARGEST}"
        ))));
    }
    let by_name = wanted.parse::<u32>().is_err();
    check_root(pod, container, account.uid, by_name)?;
    let mut groups: BTreeSet<u32> = pod.supplemental_groups.iter().copied().collect();
    groups.insert(gid);
    groups.extend(pod.fs_group);
    if !strict {
        groups.extend(groups_of(account.name, image));
    }
    Ok(User {
        uid: account.uid,
        gid,
        additional_gids: groups,
    })
}

fn check_files(image: &Image) -> Result<()> {
    for (name, file) in [("passwd", &image.passwd), ("group", &image.group)] {
        let is = match file {
            UserFile::Missing | UserFile::Bytes(_) => continue,
            UserFile::Link => "is a link",
            UserFile::Unread => "is in an archive that is not understood here",
        };
        return Err(Fault::new(format!(
            "its /etc/{name} {is}, so nobody is looked up there: give runAsUser, runAsGroup and \
             supplementalGroupsPolicy: Strict"
        )));
    }
    Ok(())
}

/// The account of a name or number. A number needs none: then its group is root's.
fn find<'a>(wanted: &'a str, image: &'a Image) -> Result<Account<'a>> {
    let is_it = |account: &Account<'_>| match wanted.parse::<u32>() {
        Ok(uid) => account.uid == uid,
        Err(_) => account.name == wanted,
    };
    let passwd = text(&image.passwd);
    if let Some(account) = accounts(passwd).find(is_it) {
        return Ok(account);
    }
    match wanted.parse() {
        Ok(uid) => Ok(Account {
            name: "",
            uid,
            gid: 0,
        }),
        Err(_) => Err(Fault::new(format!(
            "its user {:?} is not in the image's /etc/passwd: name one by number with securityContext.runAsUser",
            shorten(wanted)
        ))),
    }
}

fn check_root(pod: &PodSecurity, container: &Container, uid: u32, by_name: bool) -> Result<()> {
    let own = &container.security_context;
    if !own
        .run_as_non_root
        .or(pod.run_as_non_root)
        .unwrap_or_default()
    {
        return Ok(());
    }
    let why = if uid == 0 {
        "it would run as root: give another user with runAsUser"
    } else if by_name {
        "Kubernetes can't tell whether the image's user, which is a name, is root: give a number with runAsUser"
    } else {
        return Ok(());
    };
    Err(Fault::new(why)
        .in_field("runAsNonRoot")
        .in_field("securityContext"))
}

/// The groups that name a user as a member, without the one that is called as the user is.
fn groups_of<'a>(user: &'a str, image: &'a Image) -> impl Iterator<Item = u32> + 'a {
    groups(text(&image.group))
        .filter(move |group| {
            !user.is_empty() && group.name != user && group.members.contains(&user)
        })
        .map(|group| group.gid)
}

fn text(file: &UserFile) -> &str {
    match file {
        // One that is no text has nobody in it.
        UserFile::Bytes(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        UserFile::Missing | UserFile::Link | UserFile::Unread => "",
    }
}

fn lines(file: &str) -> impl Iterator<Item = Vec<&str>> {
    file.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| line.split(':').collect())
}

/// A number that is none is 0, as containerd's reader has it.
fn number(fields: &[&str], at: usize) -> u32 {
    fields
        .get(at)
        .and_then(|field| field.parse().ok())
        .unwrap_or_default()
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).map(|fields| Account {
        name: fields.first().copied().unwrap_or_default(),
        uid: number(&fields, 2),
        gid: number(&fields, 3),
    })
}

/// Of the two files, containerd's reader knows comments in this one.
fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    lines(group)
        .filter(|fields| !fields[0].starts_with('#'))
        .map(|fields| Group {
            name: fields.first().copied().unwrap_or_default(),
            gid: number(&fields, 2),
            members: fields
                .get(3)
                .copied()
                .unwrap_or_default()
                .split(',')
                .collect(),
        })
}
