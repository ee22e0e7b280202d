use std::error::Error;

use etcd_client::Error as EtcdError;
use tonic::{Code, Status};

use super::super::error::{Denial, Place, StoreError};
use super::options::EtcdOptionsError;

/// What an error of the client library means.
pub(super) fn explain(endpoint: &str, error: EtcdError) -> StoreError {
    match error {
        EtcdError::GRpcStatus(status) => explain_status(endpoint, status),
        // Of the set-up alone; what fails later is a status.
        EtcdError::TransportError(source) => StoreError::Options(EtcdOptionsError::Tls {
            endpoint: endpoint.to_owned(),
            source,
        }),
        EtcdError::InvalidArgs(_) | EtcdError::InvalidUri(_) => {
            StoreError::Options(EtcdOptionsError::Endpoint {
                endpoint: endpoint.to_owned(),
            })
        }
        EtcdError::InvalidMetadataValue(_) | EtcdError::Utf8Error(_) => StoreError::Protocol {
            endpoint: endpoint.to_owned(),
            source: Box::new(error),
        },
        other => unavailable(endpoint, other),
    }
}

/// Codes and texts are those of etcd's `api/v3rpc/rpctypes/error.go`, the same from 3.4 to 3.6.
fn explain_status(endpoint: &str, status: Status) -> StoreError {
    let says = |text: &str| status.message().contains(text);
    let denial = match status.code() {
        Code::ResourceExhausted if says("database space exceeded") => {
            return StoreError::Full {
                place: Place::Etcd(endpoint.to_owned()),
            };
        }
        Code::InvalidArgument if says("request is too large") => {
            return StoreError::RequestTooLarge {
                endpoint: endpoint.to_owned(),
            };
        }
        // Users or roles were changed since the token was given; a new one is asked for.
        Code::InvalidArgument if says("revision of auth store is old") => {
            return unavailable(endpoint, status);
        }
        Code::InvalidArgument if says("authentication failed") || says("user name is empty") => {
            Denial::Login
        }
        Code::Unauthenticated => Denial::Login,
        Code::FailedPrecondition if says("authentication is not enabled") => {
            Denial::LoginNotEnabled
        }
        Code::PermissionDenied => Denial::Permission,
        Code::Unimplemented | Code::InvalidArgument | Code::OutOfRange => {
            return StoreError::Protocol {
                endpoint: endpoint.to_owned(),
                source: Box::new(status),
            };
        }
        _ => match tls_denial(&status) {
            Some(denial) => denial,
            None => return unavailable(endpoint, status),
        },
    };
    unauthorised(endpoint, denial, status)
}

/// Whether TLS is behind it. rustls's error type is not in reach here; its texts are.
fn tls_denial(error: &(dyn Error + 'static)) -> Option<Denial> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("invalid peer certificate") {
            return Some(Denial::ServerCertificate);
        }
        if text.contains("received fatal alert") {
            return Some(Denial::ClientCertificate);
        }
        cause = error.source();
    }
    None
}

fn unauthorised(
    endpoint: &str,
    denial: Denial,
    source: impl Error + Send + Sync + 'static,
) -> StoreError {
    StoreError::Unauthorised {
        endpoint: endpoint.to_owned(),
        denial,
        source: Box::new(source),
    }
}

fn unavailable(endpoint: &str, source: impl Error + Send + Sync + 'static) -> StoreError {
    StoreError::Unavailable {
        place: Place::Etcd(endpoint.to_owned()),
        source: Box::new(source),
    }
}
