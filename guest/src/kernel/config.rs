//! What is asked of the kernel's configuration, and whether it was granted.
//!
//! Kconfig drops an option silently when something it depends on is missing or its name is no
//! longer known. Nothing asked for may be lost that way: see [`Options::check`].

use std::collections::BTreeMap;
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail};

/// What every kernel has.
const DEFAULT: [(&str, &str); 3] = [
    ("base.config", include_str!("../../kernel/base.config")),
    ("fs.config", include_str!("../../kernel/fs.config")),
    ("net.config", include_str!("../../kernel/net.config")),
];

/// What a kernel can have beyond the default; each makes a kernel of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// What a developer of the guest wants: tracing, checks, symbols.
    Debug,
    /// What a guest needs to run in an SEV-SNP or TDX virtual machine. Has [`Self::Mitigations`].
    Confidential,
    /// What makes up for processors' flaws at every call and return.
    Mitigations,
    /// IPsec, whose ciphers cost every boot.
    Ipsec,
}

impl Feature {
    /// Its fragments, with the names of the files.
    fn fragments(self) -> &'static [(&'static str, &'static str)] {
        const DEBUG: (&str, &str) = ("debug.config", include_str!("../../kernel/debug.config"));
        const MITIGATIONS: (&str, &str) = (
            "mitigations.config",
            include_str!("../../kernel/mitigations.config"),
        );
        const CONFIDENTIAL: (&str, &str) = (
            "confidential.config",
            include_str!("../../kernel/confidential.config"),
        );
        const IPSEC: (&str, &str) = ("ipsec.config", include_str!("../../kernel/ipsec.config"));
        match self {
            Self::Debug => &[DEBUG],
            Self::Confidential => &[MITIGATIONS, CONFIDENTIAL],
            Self::Mitigations => &[MITIGATIONS],
            Self::Ipsec => &[IPSEC],
        }
    }
}

impl FromStr for Feature {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "debug" => Ok(Self::Debug),
            "confidential" => Ok(Self::Confidential),
            "mitigations" => Ok(Self::Mitigations),
            "ipsec" => Ok(Self::Ipsec),
            other => bail!(
                "the guest kernel has no feature {other:?}, only debug, confidential, mitigations, ipsec"
            ),
        }
    }
}

/// Options by name; those that are to be off have no value.
#[derive(Debug, PartialEq, Eq)]
pub struct Options(BTreeMap<String, Option<String>>);

impl Options {
    /// What the fragments of the default and of some features ask for.
    ///
    /// A feature may change what the default says, as the confidential guest's does.
    pub fn asked(features: &[Feature]) -> Result<Self> {
        let mut default = BTreeMap::new();
        for (file, text) in DEFAULT {
            add(&mut default, text).with_context(|| format!("reading {file}"))?;
        }
        let mut more = BTreeMap::new();
        for feature in features {
            for (file, text) in feature.fragments() {
                add(&mut more, text).with_context(|| format!("reading {file}"))?;
            }
        }
        default.append(&mut more);
        Ok(Self(default))
    }

    /// All of it as one fragment, in the order of the names.
    pub fn fragment(&self) -> String {
        let mut text = String::new();
        for (option, value) in &self.0 {
            text.push_str(&match value {
                Some(value) => format!("{option}={value}\n"),
                None => format!("# {option} is not set\n"),
            });
        }
        text
    }

    /// Fails, naming every one, if options are not in the final configuration as they were asked.
    pub fn check(&self, configuration: &str) -> Result<()> {
        let mut granted = BTreeMap::new();
        add(&mut granted, configuration)?;
        let mut lost = Vec::new();
        for (option, asked) in &self.0 {
            let got = granted.get(option).cloned().flatten();
            if got != *asked {
                let shown = |value: &Option<String>| value.clone().unwrap_or("not set".to_owned());
                lost.push(format!(
                    "{option} (asked: {}; got: {})",
                    shown(asked),
                    shown(&got)
                ));
            }
        }
        if !lost.is_empty() {
            bail!(
                "the kernel's configuration doesn't grant {}: something each depends on is \
                 missing, something else selects it, or its name has changed",
                lost.join(", ")
            );
        }
        Ok(())
    }
}

/// Reads options as Kconfig writes them. Saying two things of the same option is an error.
fn add(options: &mut BTreeMap<String, Option<String>>, text: &str) -> Result<()> {
    for line in text.lines().map(str::trim) {
        let off = line
            .strip_prefix("# ")
            .and_then(|line| line.strip_suffix(" is not set"));
        let (option, value) = match (off, line.split_once('=')) {
            (Some(option), _) if option.starts_with("CONFIG_") => (option, None),
            _ if line.is_empty() || line.starts_with('#') => continue,
            (_, Some((option, "n"))) => (option, None),
            (_, Some((option, value))) => (option, Some(value.to_owned())),
            (_, None) => bail!("{line:?} is no option"),
        };
        if !option.starts_with("CONFIG_") {
            bail!("{line:?} is no option");
        }
        if let Some(before) = options.insert(option.to_owned(), value.clone())
            && before != value
        {
            bail!("{option} is asked for in two ways");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Options {
        let mut options = BTreeMap::new();
        add(&mut options, text).unwrap();
        Options(options)
    }

    #[test]
    fn what_kconfig_writes_is_read() {
        let read = options("# A comment.\n\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n");
        assert_eq!(
            read.fragment(),
            "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=\"x=y\"\n"
        );
        assert_eq!(options("CONFIG_A=n"), options("# CONFIG_A is not set"));
    }

    #[test]
    fn a_line_that_is_no_option_or_says_two_things_is_refused() {
        for bad in ["CONFIG_A", "A=y", "CONFIG_A=y\n# CONFIG_A is not set"] {
            assert!(add(&mut BTreeMap::new(), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_option_that_was_not_granted_is_named() {
        let asked =
            options("CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n# CONFIG_D is not set");
        asked
            .check("CONFIG_A=y\nCONFIG_B=64\n# CONFIG_C is not set\n")
            .unwrap();
        let error = asked
            .check("CONFIG_B=8\nCONFIG_C=y\n")
            .unwrap_err()
            .to_string();
        for named in [
            "CONFIG_A (asked: y; got: not set)",
            "CONFIG_B (asked: 64; got: 8)",
            "CONFIG_C (asked: not set; got: y)",
        ] {
            assert!(error.contains(named), "{error}");
        }
        assert!(!error.contains("CONFIG_D"), "{error}");
    }

    #[test]
    fn features_are_known_by_name_and_every_fragment_is_readable() {
        let features = ["debug", "confidential", "mitigations", "ipsec"]
            .map(|name| name.parse::<Feature>().unwrap());
        assert!("debugging".parse::<Feature>().is_err());
        let default = Options::asked(&[]).unwrap();
        assert_eq!(default.0.get("CONFIG_MODULES"), Some(&None));
        for feature in features {
            assert_ne!(Options::asked(&[feature]).unwrap(), default);
        }
    }
}
