//! Names that peers and operators give, `SpiffeId`, `TrustDomain` and `DnsName`: any text. What is
//! read has one spelling, and nothing in it can forge a log line or a path.
#![no_main]

use attestation::identity::{DnsName, SpiffeId, TrustDomain};
use fuzz::{Outcome, start};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: start(&seeds(), attempt), |bytes: &[u8]| {
    attempt(bytes);
});

fn seeds() -> Vec<Vec<u8>> {
    [
        "spiffe://shop.example/ns/default/sa/web",
        "spiffe://shop.example/node/blue",
        "spiffe://mesh.local",
        "mesh.local",
        "Web.Default.svc",
    ]
    .map(|it| it.as_bytes().to_vec())
    .to_vec()
}

fn attempt(bytes: &[u8]) -> Outcome {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return Outcome::Refused;
    };
    let id = SpiffeId::parse(text);
    if let Ok(id) = &id {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain(), id.path()), text);
        assert!(text.bytes().all(|it| it.is_ascii_graphic()));
        assert!(!id.path().split('/').any(|it| it == "." || it == ".."));
        if let (Some(namespace), Some(name)) = (id.namespace(), id.workload_name()) {
            let made = SpiffeId::workload(id.trust_domain(), namespace, name);
            assert_eq!(made.as_ref(), Ok(id));
        }
    }
    let trust_domain = TrustDomain::parse(text);
    if let Ok(trust_domain) = &trust_domain {
        assert_eq!(trust_domain.as_str(), text);
        assert!(SpiffeId::parse(&format!("spiffe://{text}")).is_ok());
    }
    let dns = DnsName::parse(text);
    if let Ok(dns) = &dns {
        assert!(dns.as_str().eq_ignore_ascii_case(text));
        assert_eq!(DnsName::parse(dns.as_str()).as_ref(), Ok(dns));
        assert!(dns.as_str().bytes().all(|it| it.is_ascii_graphic()));
    }
    Outcome::accepted_if(id.is_ok() || trust_domain.is_ok() || dns.is_ok())
}
