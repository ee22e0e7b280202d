//! What the agent can ask of its loader: nothing else of what bpf(2) does.

use std::collections::HashSet;

use ebpf_abi::{MAX_WORKERS, Token, Workload as WorkloadState};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::bpf::{AddressPrefix, Device, Options, Table, Tenancy, WhyTcp};

/// Something to be done.
pub(super) trait Request: Into<Message> {
    /// What comes back where it was done.
    type Answer: Serialize + DeserializeOwned;
}

/// What comes back in any case.
pub(super) type Outcome<T> = Result<T, Failure>;

/// Why something was not done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// With every cause.
    pub what: String,
    /// What the system said, if that was it.
    pub errno: Option<i32>,
}

/// Makes a structure of each request, and one message of all.
macro_rules! requests {
    ($(
        $(#[$doc:meta])*
        $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty),* $(,)? } -> $answer:ty;
    )+) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Serialize, Deserialize)]
            pub(super) struct $name {
                $($(#[$field_doc])* pub $field: $kind,)*
            }

            impl Request for $name {
                type Answer = $answer;
            }

            impl From<$name> for Message {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }
        )+

        /// A request as it is sent.
        #[derive(Debug, Serialize, Deserialize)]
        pub(super) enum Message {
            $($(#[$doc])* $name($name),)+
        }
    };
}

requests! {
    /// Prepares the kernel side of an instance; comes before everything else. What it had pinned for an
    /// instance without pins is removed where it fails.
    Open {
        /// Where the bpf file system is, or is to be mounted.
        bpffs: String,
        instance: String,
        options: Options,
    } -> Opened;

    /// Removes every pin of the instance.
    Detach {} -> usize;

    /// Beside it the agent's cgroup.
    AttachAgent {} -> ();

    /// Beside it the workload's cgroup and its network namespace. The answer is a handle of its programs.
    AttachWorkload {
        owner: String,
        id: u64,
        tenancy: Tenancy,
    } -> u64;

    /// Beside it the network namespace that these devices are in.
    GuardDevices {
        programs: u64,
        devices: Vec<Device>,
    } -> ();

    /// The agent guards no devices by them any more; they stay attached.
    DropPrograms { programs: u64 } -> ();

    IsAttached { owner: String } -> bool;

    ReleaseWorkload { owner: String } -> ();

    /// Names the owners that are not among these; see [`crate::bpf::Steering::strangers`].
    Strangers { owners: Vec<String> } -> Vec<String>;

    AgentCgroups {} -> HashSet<u64>;

    ForgetAgentsBut { cgroups: HashSet<u64> } -> ();

    /// Beside it the workload's cgroup; beside the answer a ring buffer and two links.
    Overhear {
        id: u64,
        tenancy: Tenancy,
    } -> ();

    /// Beside it the loader's end of a channel that takes [`Accelerate`] from now on.
    ServeLocalHops {} -> ();

    /// Beside it the agent's end of a local hop.
    Accelerate {
        cookie: u64,
        opened: u64,
    } -> Result<(), WhyTcp>;

    ForgetAllBut { served: Vec<u64> } -> ();

    ForgetClients {} -> ();

    Forget { id: u64 } -> ();

    ForgetReleased { id: u64 } -> ();

    SetUdpDenied {
        id: u64,
        is_denied: bool,
    } -> ();

    SetWorkload {
        id: u64,
        #[serde(with = "State")]
        state: WorkloadState,
    } -> ();

    /// Beside it the listener.
    SetListener {
        id: u64,
        worker: u32,
        ipv6: bool,
    } -> ();

    SetIngressPorts {
        id: u64,
        default_is_plaintext: bool,
        ports: Vec<(u16, bool)>,
    } -> ();

    SetAddresses {
        id: u64,
        addresses: Vec<AddressPrefix>,
    } -> ();

    /// Beside the answer the ring buffer of refusals; the answer is its size in bytes.
    Refusals {} -> usize;

    Read {} -> Readings;
}

/// What an instance was found to be.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Opened {
    /// Nothing of it was pinned before.
    pub are_fresh: bool,
    /// There were no maps of this version before.
    pub has_new_maps: bool,
    pub token: [u64; 2],
    pub acceleration: Result<(), WhyTcp>,
}

impl Opened {
    pub(super) fn token(&self) -> Token {
        Token(self.token)
    }
}

/// Counters and tables at one moment.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Readings {
    /// By [`ebpf_abi::Counter::index`].
    pub counters: Vec<u64>,
    pub tables: [Table; 2],
}

/// How a [`WorkloadState`] is sent.
#[derive(Serialize, Deserialize)]
#[serde(remote = "WorkloadState")]
struct State {
    credential_until: u64,
    netns: u64,
    workers: u32,
    turn: u32,
    egress_v4: [u16; MAX_WORKERS],
    egress_v6: [u16; MAX_WORKERS],
}

/// What an instance is called on the file system: one name, none that means another place.
pub(super) fn is_one_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != ".."
}

/// The same of an owner, within an instance, where some names are the kernel side's own.
pub(super) fn is_owner(name: &str) -> bool {
    is_one_name(name) && name != crate::bpf::AGENT && !name.starts_with("maps-")
}

#[cfg(test)]
mod tests {
    use super::{is_one_name, is_owner};

    #[test]
    fn a_name_leads_nowhere_else_and_to_nothing_of_the_kernel_side() {
        for name in ["web-7-4026531840", "web.x-7-1-shared", "..web"] {
            assert!(is_one_name(name) && is_owner(name), "{name}");
        }
        for name in ["", ".", "..", "../x", "/x", "a/b", "a\0"] {
            assert!(!is_one_name(name) && !is_owner(name), "{name}");
        }
        // An instance may be called so.
        for name in ["agent", "maps-12"] {
            assert!(is_one_name(name) && !is_owner(name), "{name}");
        }
    }
}
