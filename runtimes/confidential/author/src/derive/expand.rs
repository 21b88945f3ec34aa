//! `$(NAME)` in values, as the kubelet expands it.

use crate::yaml::Fault;

/// A piece of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// As it is.
    Literal(&'a str),
    /// A reference to this variable.
    Variable(&'a str),
}

/// Takes a text apart. `$$` stands for `$`; what begins like a reference and does not end is text.
///
/// # Errors
/// `$` before a character beyond ASCII: the kubelet makes other characters of that.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, Fault> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        pieces.push(Piece::Literal(before));
        let after = &dollar[1..];
        rest = match after.bytes().next() {
            None => {
                pieces.push(Piece::Literal("$"));
                after
            }
            Some(b'$') => {
                pieces.push(Piece::Literal("$"));
                &after[1..]
            }
            Some(b'(') => match after.find(')') {
                Some(end) => {
                    pieces.push(Piece::Variable(&after[1..end]));
                    &after[end + 1..]
                }
                None => {
                    pieces.push(Piece::Literal("$("));
                    &after[1..]
                }
            },
            Some(byte) if byte.is_ascii() => {
                pieces.push(Piece::Literal(&dollar[..2]));
                &after[1..]
            }
            Some(_) => {
                let why = "Kubernetes garbles a character beyond ASCII behind a $: write $$";
                return Err(Fault::new(why));
            }
        };
    }
    pieces.push(Piece::Literal(rest));
    pieces.retain(|piece| *piece != Piece::Literal(""));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::Piece::{Literal, Variable};
    use super::*;

    #[test]
    fn references_are_found() {
        let cases: [(&str, &[Piece<'_>]); 12] = [
            ("", &[]),
            ("plain", &[Literal("plain")]),
            ("$(A)", &[Variable("A")]),
            ("a$(B)c", &[Literal("a"), Variable("B"), Literal("c")]),
            ("$$(A)", &[Literal("$"), Literal("(A)")]),
            ("$$$(A)", &[Literal("$"), Variable("A")]),
            ("$(A", &[Literal("$("), Literal("A")]),
            ("$A", &[Literal("$A")]),
            ("100$", &[Literal("100"), Literal("$")]),
            ("$()", &[Variable("")]),
            ("$(A)$(B)", &[Variable("A"), Variable("B")]),
            ("${A}", &[Literal("${"), Literal("A}")]),
        ];
        for (text, expected) in cases {
            assert_eq!(pieces(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn what_kubernetes_garbles_is_refused() {
        assert!(pieces("5 $é").is_err());
        assert!(pieces("é $").is_ok());
    }
}
