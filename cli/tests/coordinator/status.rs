use crate::bed::Bed;

#[test]
fn status_shows_each_phase() {
    let mut bed = Bed::with_coordinator();
    let text = |bed: &Bed| bed.ask("status", "").ok().stdout;
    assert_eq!(
        text(&bed),
        "phase       uninitialised\n\
         first set   by whoever came first (no --owner-key)\n\
         TEE         a simulated one is accepted: protects nothing\n"
    );
    let json = bed.status();
    assert_eq!(json["phase"], "uninitialised");
    for absent in ["seq", "transition", "manifest", "recovery", "rotation"] {
        assert_eq!(json[absent], serde_json::Value::Null, "{absent}");
    }

    bed.ask("set", "").ok();
    let (head, hash) = (bed.head(), bed.digest_of("manifest.json"));
    assert_eq!(
        text(&bed),
        format!(
            "phase       ready\n\
             transition  1 {head}\n\
             manifest    {hash}\n\
             mesh CA     generation 1, rotation done\n\
             first set   by whoever came first (no --owner-key)\n\
             TEE         a simulated one is accepted: protects nothing\n"
        )
    );
    let json = bed.status();
    assert_eq!(json["manifest_is_the_expected"], true);
    assert_eq!(json["manifest"], hash);
    assert_eq!(json["rotation"]["stage"], "done");
    assert_eq!(json["rotation"]["waiting_for"], serde_json::json!([]));

    bed.restart();
    let recovery = format!(
        "phase       recovery\n\
         transition  1 {head}\n\
         manifest    {hash}\n\
         recovery    0 of 2 shares\n"
    );
    assert!(text(&bed).starts_with(&recovery), "{}", text(&bed));
    bed.ask("recover", "--seedshare-owner-key fay.pem").ok();
    assert_eq!(
        bed.status()["recovery"],
        serde_json::json!({ "have": 1, "need": 2 })
    );
    bed.ask("recover", "--seedshare-owner-key dora.pem").ok();
    assert!(
        text(&bed).starts_with("phase       ready\ntransition  2 "),
        "{}",
        text(&bed)
    );

    bed.next_manifest("manifest.json", "2h");
    assert!(text(&bed).contains(&format!("{hash} (not the one given with -m)\n")));
    assert_eq!(bed.status()["manifest_is_the_expected"], false);
}
