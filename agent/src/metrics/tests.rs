use super::*;
use crate::bpf::WhyTcp;

fn web(metrics: &Metrics) -> WorkloadMetrics {
    metrics.workload(&"web".parse().unwrap())
}

#[test]
fn every_metric_appears_under_its_documented_name() {
    let metrics = Metrics::new("0.1.0");
    let web = web(&metrics);
    let lane = web.lane(Direction::Ingress);
    lane.opened();
    lane.moved(5, 7);
    lane.handshake(Duration::from_millis(3));
    lane.ended(Mode::Mtls, "finished");
    lane.refused("peer-expired");
    web.set_certificate_expiry(1_800_000_000);
    web.certificate_reloaded(ReloadResult::Loaded);
    metrics.set_kernel_refusals("no-agent", 3);
    metrics.set_kernel_refusals("no-agent", 4);
    metrics.set_udp_datagrams(9);
    metrics.set_lost_log_lines(8);
    metrics.set_redirected(7);
    metrics.set_map("orig_dst", 10, 65_536);
    lane.local_hop(LocalHop::Tcp(WhyTcp::ProgramBlocks));
    lane.entered(Datapath {
        name: "kernel",
        why: "both",
        means: "both directions",
    });
    lane.key_limit_near();
    lane.spliced(6);
    metrics.set_nic_offload(Some(NicOffload {
        tx_now: 1,
        rx_now: 2,
        tx: 3,
        rx: 4,
    }));
    let coordinator = metrics.coordinator();
    coordinator.set_unreachable(Some(Duration::from_millis(7_900)));
    coordinator.enrolled();
    let text = metrics.encode();
    for line in [
        r#"sealwire_build_info{version="0.1.0"} 1"#,
        r#"sealwire_connections_total{workload="web",direction="ingress",mode="mtls",close="finished"} 1"#,
        r#"sealwire_connections_open{workload="web",direction="ingress"} 1"#,
        r#"sealwire_connections_open{workload="web",direction="egress"} 0"#,
        r#"sealwire_refusals_total{workload="web",direction="ingress",reason="peer-expired"} 1"#,
        r#"sealwire_kernel_refusals_total{reason="no-agent"} 4"#,
        r#"sealwire_bytes_total{workload="web",direction="ingress",flow="sent"} 5"#,
        r#"sealwire_bytes_total{workload="web",direction="ingress",flow="received"} 7"#,
        r#"sealwire_handshake_seconds_bucket{le="0.0025",direction="ingress"} 0"#,
        r#"sealwire_handshake_seconds_bucket{le="0.005",direction="ingress"} 1"#,
        r#"sealwire_certificate_expiry_timestamp_seconds{workload="web"} 1800000000"#,
        r#"sealwire_certificate_reloads_total{workload="web",result="loaded"} 1"#,
        r#"sealwire_certificate_reloads_total{workload="web",result="refused"} 0"#,
        "sealwire_coordinator_reachable 0",
        "sealwire_coordinator_unreachable_seconds 7",
        r#"sealwire_enrolments_total{result="issued"} 1"#,
        r#"sealwire_enrolments_total{result="failed"} 0"#,
        r#"sealwire_map_entries{map="orig_dst"} 10"#,
        r#"sealwire_map_capacity{map="orig_dst"} 65536"#,
        "sealwire_udp_datagrams_total 9",
        "sealwire_log_lines_lost_total 8",
        "sealwire_redirected_messages_total 7",
        r#"sealwire_datapaths_total{workload="web",direction="ingress",datapath="kernel",why="both"} 1"#,
        r#"sealwire_spliced_bytes_total{workload="web",direction="ingress"} 6"#,
        r#"sealwire_local_hops_total{workload="web",direction="ingress",hop="tcp",why="program-blocks"} 1"#,
        r#"sealwire_key_limits_near_total{workload="web",direction="ingress"} 1"#,
        r#"sealwire_kernel_tls_nic_open{flow="sent"} 1"#,
        r#"sealwire_kernel_tls_nic_total{flow="received"} 4"#,
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}

#[test]
fn without_a_coordinator_nothing_is_said_of_one() {
    let metrics = Metrics::new("0.1.0");
    assert!(!metrics.encode().contains("sealwire_coordinator"));
    metrics.coordinator().set_unreachable(None);
    let text = metrics.encode();
    assert!(
        text.contains("sealwire_coordinator_reachable 1\n"),
        "{text}"
    );
}

#[test]
fn what_the_kernel_can_is_shown_feature_by_feature() {
    let metrics = Metrics::new("0.1.0");
    assert!(!metrics.encode().contains("sealwire_kernel_tls_nic"));
    metrics.set_kernel_tls(&Capabilities::probe());
    let text = metrics.encode();
    for series in [
        r#"sealwire_kernel_tls_capability{feature="ulp",cipher="any"} "#,
        r#"sealwire_kernel_tls_capability{feature="tx",cipher="aes-128-gcm"} "#,
        r#"sealwire_kernel_tls_capability{feature="rx",cipher="chacha20-poly1305"} "#,
        r#"sealwire_kernel_tls_capability{feature="rekey",cipher="any"} "#,
        r#"sealwire_kernel_tls_capability{feature="splice",cipher="any"} "#,
    ] {
        assert!(text.contains(series), "{series} in\n{text}");
    }
}

#[test]
fn two_handles_of_one_workload_count_into_one_series() {
    let metrics = Metrics::new("0.1.0");
    web(&metrics).lane(Direction::Egress).refused("denied");
    web(&metrics).lane(Direction::Egress).refused("denied");
    let line = r#"sealwire_refusals_total{workload="web",direction="egress",reason="denied"} 2"#;
    assert!(metrics.encode().contains(line));
}
