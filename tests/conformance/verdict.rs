//! What a spec's outcome with a handler of ours comes to, beside the stock handler's.

use rig::critest::Outcome;

/// What is said of a spec in the end.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Passed,
    /// With what is wrong.
    Failed(String),
    /// With the reason.
    Skipped(String),
}

/// Judges a spec. `listed` is the reason for which it is on the list at `path` of what the handler
/// doesn't pass, if it is.
pub fn judge(stock: &Outcome, ours: &Outcome, listed: Option<&str>, path: &str) -> Verdict {
    match (stock, ours, listed) {
        (_, Outcome::Passed, None) => Verdict::Passed,
        (_, Outcome::Passed, Some(_)) => {
            Verdict::Failed(format!("it passes now: remove it from {path}"))
        }
        (Outcome::Passed, Outcome::Failed(message), None) => Verdict::Failed(brief(message)),
        (Outcome::Passed, Outcome::Skipped(reason), None) => Verdict::Failed(format!(
            "stock passes it, but here it was skipped: {}",
            brief(reason)
        )),
        (Outcome::Passed, _, Some(reason)) => Verdict::Skipped(reason.to_owned()),
        (Outcome::Failed(message), ..) => {
            Verdict::Skipped(format!("stock fails it here: {}", brief(message)))
        }
        (Outcome::Skipped(reason), ..) => Verdict::Skipped(brief(reason)),
    }
}

/// The first line or two of a failure.
fn brief(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> Outcome {
        Outcome::Failed("no\n  such file".into())
    }

    #[test]
    fn what_stock_passes_must_pass() {
        let skip = Outcome::Skipped("no feature".into());
        let judged = |ours, listed| judge(&Outcome::Passed, &ours, listed, "list");
        assert_eq!(judged(Outcome::Passed, None), Verdict::Passed);
        assert_eq!(
            judged(failed(), None),
            Verdict::Failed("no such file".into())
        );
        assert!(matches!(judged(skip, None), Verdict::Failed(_)));
    }

    #[test]
    fn what_is_listed_is_excused_until_it_passes() {
        let judged = |ours| judge(&Outcome::Passed, &ours, Some("why"), "list");
        assert_eq!(judged(failed()), Verdict::Skipped("why".into()));
        let Verdict::Failed(said) = judged(Outcome::Passed) else {
            panic!("a list may only shrink");
        };
        assert!(said.ends_with("remove it from list"));
    }

    #[test]
    fn what_stock_does_not_pass_is_not_asked() {
        for stock in [failed(), Outcome::Skipped("no feature".into())] {
            assert!(matches!(
                judge(&stock, &failed(), None, "list"),
                Verdict::Skipped(_)
            ));
            assert_eq!(
                judge(&stock, &Outcome::Passed, None, "list"),
                Verdict::Passed
            );
        }
    }
}
