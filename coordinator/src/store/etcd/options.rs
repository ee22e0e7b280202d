use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use zeroize::Zeroizing;

/// How to reach an etcd cluster.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// The members, as `https://host:port` or, where nobody else can listen, `http://host:port`.
    pub endpoints: Vec<String>,
    /// What every key begins with, such as `/sealwire/production`. One deployment, one prefix.
    pub prefix: String,
    /// The CA certificates, in PEM form, that the members' certificates chain to. For `https`.
    pub ca_pem: Option<String>,
    /// The certificate to show to the members, if they want one.
    pub client: Option<ClientCertificate>,
    /// The user to log in as, if etcd's authentication is on.
    pub login: Option<Login>,
    /// How long one call may take, over all members and retries.
    ///
    /// A member that does not answer is given up after its equal share of it, so allow three
    /// seconds or more for each: electing a new leader takes one or two.
    pub timeout: Duration,
}

/// A client certificate for etcd.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate, and intermediates if any, in PEM form.
    pub cert_pem: String,
    /// Its private key in PEM form.
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// A user of etcd.
#[derive(Clone)]
pub struct Login {
    /// The user's name.
    pub user: String,
    /// The user's password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Options that can't work, or that would give a secret away.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EtcdOptionsError {
    /// There is nothing to connect to.
    #[error("no etcd endpoint is given; name at least one, as https://host:port")]
    NoEndpoint,
    /// An endpoint is not a URL that etcd is reached by.
    #[error("etcd endpoint `{endpoint}` is not of the form https://host:port or http://host:port")]
    Endpoint {
        /// As it was given.
        endpoint: String,
    },
    /// Keys need a name of their own.
    #[error("the etcd prefix is empty; give one such as /sealwire")]
    NoPrefix,
    /// There is no time to wait.
    #[error("the etcd timeout is zero; allow three seconds or more for each endpoint")]
    NoTimeout,
    /// TLS without knowing whom to trust.
    #[error("etcd endpoint {endpoint} uses TLS; give the CA certificate that its own chains to")]
    NoCa {
        /// The endpoint.
        endpoint: String,
    },
    /// Certificates were given for a connection that uses none.
    #[error("etcd endpoint {endpoint} uses no TLS, but certificates are given; write https://")]
    TlsNotUsed {
        /// The endpoint.
        endpoint: String,
    },
    /// The password would cross the network in clear.
    #[error(
        "the password would go to {endpoint} in clear; write https://, or use a loopback address"
    )]
    PasswordInClear {
        /// The endpoint.
        endpoint: String,
    },
    /// A certificate or a key is not in PEM form.
    #[error("{0} is not in PEM form")]
    NotPem(PemFile),
    /// TLS can't be set up with what was given; most often the key is of another certificate.
    #[error("TLS for {endpoint} can't be set up; is the key that of the client certificate?")]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What the TLS library said.
        source: tonic::transport::Error,
    },
}

/// Something that is given in PEM form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemFile {
    /// The CA certificates.
    Ca,
    /// The client certificate.
    ClientCertificate,
    /// Its private key.
    ClientKey,
}

impl fmt::Display for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "the CA certificate for etcd",
            Self::ClientCertificate => "the client certificate for etcd",
            Self::ClientKey => "the key of the client certificate for etcd",
        })
    }
}

impl EtcdOptions {
    pub(super) fn check(&self) -> Result<(), EtcdOptionsError> {
        if self.endpoints.is_empty() {
            return Err(EtcdOptionsError::NoEndpoint);
        }
        if self.prefix.trim_end_matches('/').is_empty() {
            return Err(EtcdOptionsError::NoPrefix);
        }
        if self.timeout.is_zero() {
            return Err(EtcdOptionsError::NoTimeout);
        }
        self.endpoints
            .iter()
            .try_for_each(|it| self.check_endpoint(it))?;
        self.check_pem()
    }

    fn check_pem(&self) -> Result<(), EtcdOptionsError> {
        let check = |is_pem, file| {
            if is_pem {
                Ok(())
            } else {
                Err(EtcdOptionsError::NotPem(file))
            }
        };
        if let Some(ca) = &self.ca_pem {
            check(has_certificates(ca), PemFile::Ca)?;
        }
        let Some(ClientCertificate { cert_pem, key_pem }) = &self.client else {
            return Ok(());
        };
        check(has_certificates(cert_pem), PemFile::ClientCertificate)?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes());
        check(key.is_ok(), PemFile::ClientKey)
    }

    fn check_endpoint(&self, endpoint: &str) -> Result<(), EtcdOptionsError> {
        let endpoint = endpoint.to_owned();
        let Some(url) = parse(&endpoint) else {
            return Err(EtcdOptionsError::Endpoint { endpoint });
        };
        match url.scheme {
            Scheme::Https if self.ca_pem.is_none() => Err(EtcdOptionsError::NoCa { endpoint }),
            Scheme::Http if self.ca_pem.is_some() || self.client.is_some() => {
                Err(EtcdOptionsError::TlsNotUsed { endpoint })
            }
            Scheme::Http if self.login.is_some() && !url.is_loopback => {
                Err(EtcdOptionsError::PasswordInClear { endpoint })
            }
            Scheme::Https | Scheme::Http => Ok(()),
        }
    }

    /// In the terms of the client library, for one attempt of at most `attempt`.
    pub(super) fn to_connect_options(&self, attempt: Duration) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(attempt)
            .with_keep_alive(KEEP_ALIVE, KEEP_ALIVE)
            // A member that lost the others says so, instead of answering from what it has.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(login) = &self.login {
            options = options.with_user(&login.user, login.password.as_str());
        }
        if let Some(ca) = &self.ca_pem {
            let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
            if let Some(client) = &self.client {
                tls = tls.identity(Identity::from_pem(
                    &client.cert_pem,
                    client.key_pem.as_bytes(),
                ));
            }
            options = options.with_tls(tls);
        }
        options
    }
}

/// The TLS library takes a file with none for one that trusts nobody.
fn has_certificates(pem: &str) -> bool {
    let mut certificates = CertificateDer::pem_slice_iter(pem.as_bytes()).peekable();
    certificates.peek().is_some() && certificates.all(|it| it.is_ok())
}

enum Scheme {
    Http,
    Https,
}

struct Url {
    scheme: Scheme,
    is_loopback: bool,
}

fn parse(endpoint: &str) -> Option<Url> {
    let uri: tonic::transport::Uri = endpoint.parse().ok()?;
    let host = uri.host().filter(|it| !it.is_empty())?;
    uri.port_u16()?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return None;
    }
    let address = host.trim_start_matches('[').trim_end_matches(']');
    Some(Url {
        scheme: match uri.scheme_str()? {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        },
        is_loopback: host == "localhost"
            || address.parse::<IpAddr>().is_ok_and(|it| it.is_loopback()),
    })
}

/// How often a connection is tried, and how long the answer may take. A member drops clients that
/// ping more often (`--grpc-keepalive-min-time`).
const KEEP_ALIVE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoint: &str) -> EtcdOptions {
        EtcdOptions {
            endpoints: vec![endpoint.to_owned()],
            prefix: "/sealwire".to_owned(),
            ca_pem: None,
            client: None,
            login: None,
            timeout: Duration::from_secs(3),
        }
    }

    fn login() -> Login {
        Login {
            user: "sealwire".to_owned(),
            password: Zeroizing::new("hunter2".to_owned()),
        }
    }

    #[test]
    fn a_password_goes_in_clear_to_loopback_alone() {
        for loopback in [
            "http://127.0.0.1:2379",
            "http://[::1]:2379",
            "http://localhost:2379",
        ] {
            let options = EtcdOptions {
                login: Some(login()),
                ..options(loopback)
            };
            assert!(options.check().is_ok(), "{loopback}");
        }
        let remote = EtcdOptions {
            login: Some(login()),
            ..options("http://192.0.2.1:2379")
        };
        assert!(matches!(
            remote.check(),
            Err(EtcdOptionsError::PasswordInClear { .. })
        ));
    }

    #[test]
    fn tls_goes_with_https_and_needs_a_ca() {
        assert!(matches!(
            options("https://etcd:2379").check(),
            Err(EtcdOptionsError::NoCa { .. })
        ));
        let ca = Some("-----BEGIN CERTIFICATE-----".to_owned());
        let plain = EtcdOptions {
            ca_pem: ca,
            ..options("http://etcd:2379")
        };
        assert!(matches!(
            plain.check(),
            Err(EtcdOptionsError::TlsNotUsed { .. })
        ));
    }

    #[test]
    fn an_endpoint_is_a_scheme_a_host_and_a_port() {
        for wrong in [
            "",
            "etcd",
            "etcd:2379",
            "ftp://etcd:2379",
            "http://etcd",
            "http://:2379",
            "http://etcd:2379/v3",
            "http://etcd:2379?a",
            "http://etcd:99999",
            "http://e tcd:1",
        ] {
            assert!(
                matches!(
                    options(wrong).check(),
                    Err(EtcdOptionsError::Endpoint { .. })
                ),
                "{wrong}"
            );
        }
        assert!(options("http://etcd:2379").check().is_ok());
        assert!(options("http://etcd:2379/").check().is_ok());
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = EtcdOptions {
            endpoints: vec![],
            ..options("")
        };
        assert!(matches!(none.check(), Err(EtcdOptionsError::NoEndpoint)));
        let no_prefix = EtcdOptions {
            prefix: "//".to_owned(),
            ..options("http://etcd:1")
        };
        assert!(matches!(no_prefix.check(), Err(EtcdOptionsError::NoPrefix)));
        let no_time = EtcdOptions {
            timeout: Duration::ZERO,
            ..options("http://etcd:1")
        };
        assert!(matches!(no_time.check(), Err(EtcdOptionsError::NoTimeout)));
    }

    #[test]
    fn what_is_not_in_pem_form_is_named() {
        let garbage = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        for ca in ["", "garbage", garbage] {
            let options = EtcdOptions {
                ca_pem: Some(ca.to_owned()),
                ..options("https://etcd:2379")
            };
            assert!(
                matches!(options.check(), Err(EtcdOptionsError::NotPem(PemFile::Ca))),
                "{ca}"
            );
        }
    }

    #[test]
    fn secrets_are_not_in_the_debug_output() {
        let client = Some(ClientCertificate {
            cert_pem: "certificate".to_owned(),
            key_pem: Zeroizing::new("hunter2".to_owned()),
        });
        let options = EtcdOptions {
            login: Some(login()),
            client,
            ..options("http://etcd:2379")
        };
        let printed = format!("{options:?}");
        assert!(printed.contains("sealwire"));
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
