//! Failures as the service's answers carry them: one code for each kind, both ways.

use trefoil_core::{Error, ErrorKind};
use ttrpc::Code;

/// Each kind and its code. What has any other code is [`ErrorKind::Internal`].
const CODES: [(ErrorKind, Code); 7] = [
    (ErrorKind::InvalidArgument, Code::INVALID_ARGUMENT),
    (ErrorKind::NotFound, Code::NOT_FOUND),
    (ErrorKind::AlreadyExists, Code::ALREADY_EXISTS),
    (ErrorKind::FailedPrecondition, Code::FAILED_PRECONDITION),
    (ErrorKind::Unimplemented, Code::UNIMPLEMENTED),
    (ErrorKind::Unavailable, Code::UNAVAILABLE),
    (ErrorKind::Internal, Code::UNKNOWN),
];

/// A failure as the agent answers it.
pub fn to_answer(why: &Error) -> ttrpc::Error {
    let code = CODES
        .iter()
        .find(|(kind, _)| *kind == why.kind())
        .map_or(Code::UNKNOWN, |(_, code)| *code);
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, why.to_string()))
}

/// What the host makes of a failed request: the agent's failure, or that there is no agent to ask any
/// more, which is [`ErrorKind::Unavailable`].
pub fn from_answer(why: ttrpc::Error) -> Error {
    match why {
        ttrpc::Error::RpcStatus(status) => {
            let kind = CODES
                .iter()
                .find(|(_, code)| status.code() == *code)
                .map_or(ErrorKind::Internal, |(kind, _)| *kind);
            Error::new(kind, status.message)
        }
        other => Error::new(
            ErrorKind::Unavailable,
            format!("the guest's agent does not answer: {other}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_arrives_as_it_was() {
        for (kind, _) in CODES {
            let sent = Error::new(kind, "start container a: it has been started");
            assert_eq!(from_answer(to_answer(&sent)), sent);
        }
    }

    #[test]
    fn every_kind_has_a_code_of_its_own() {
        for (number, (kind, code)) in CODES.iter().enumerate() {
            for (other_kind, other_code) in &CODES[..number] {
                assert!(kind != other_kind && code != other_code, "{kind:?}");
            }
        }
    }

    #[test]
    fn what_the_library_says_itself_is_told_apart() {
        let status = ttrpc::get_status(Code::DEADLINE_EXCEEDED, "timeout");
        let why = from_answer(ttrpc::Error::RpcStatus(status));
        assert_eq!(why, Error::internal("timeout"));
        let why = from_answer(ttrpc::Error::Socket("closed".into()));
        assert_eq!(why.kind(), ErrorKind::Unavailable);
        assert!(why.to_string().starts_with("the guest's agent does not"));
    }
}
