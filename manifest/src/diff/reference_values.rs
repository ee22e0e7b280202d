use attestation::{ReferenceValues, Tee};

use crate::diff::Change;
use crate::reference_values::{fields_of_simulated, fields_of_snp, fields_of_tdx};

pub(super) fn changes(old: &ReferenceValues, new: &ReferenceValues) -> Vec<Change> {
    let ReferenceValues {
        snp,
        tdx,
        simulated,
    } = old;
    let mut changes = of_tee(
        Tee::SevSnp,
        entries("snp", snp, fields_of_snp),
        entries("snp", &new.snp, fields_of_snp),
    );
    changes.extend(of_tee(
        Tee::Tdx,
        entries("tdx", tdx, fields_of_tdx),
        entries("tdx", &new.tdx, fields_of_tdx),
    ));
    changes.extend(of_tee(
        Tee::Simulated,
        entries("simulated", simulated, fields_of_simulated),
        entries("simulated", &new.simulated, fields_of_simulated),
    ));
    changes
}

struct Entry {
    name: String,
    fields: Vec<(&'static str, String)>,
}

fn entries<R>(
    kind: &str,
    values: &[R],
    fields: impl Fn(&R) -> Vec<(&'static str, String)>,
) -> Vec<Entry> {
    let entry = |(i, value)| Entry {
        name: format!("{kind}[{i}]"),
        fields: fields(value),
    };
    values.iter().enumerate().map(entry).collect()
}

impl Entry {
    fn measurement(&self) -> &str {
        self.fields
            .iter()
            .find(|(name, _)| MEASUREMENTS.contains(name))
            .map_or("", |(_, value)| value)
    }
}

/// Pairs equal entries first, wherever they stand, then those with one measurement.
fn of_tee(tee: Tee, mut old: Vec<Entry>, mut new: Vec<Entry>) -> Vec<Change> {
    pair(&mut old, &mut new, |a, b| a.fields == b.fields);
    let mut changes = Vec::new();
    for (from, to) in pair(&mut old, &mut new, |a, b| {
        a.measurement() == b.measurement()
    }) {
        let fields = from.fields.into_iter().zip(to.fields);
        changes.extend(fields.filter(|((_, from), (_, to))| from != to).map(
            |((field, old), (_, new))| Change::ReferenceValueChanged {
                entry: to.name.clone(),
                field,
                old,
                new,
            },
        ));
    }
    changes.extend(old.iter().map(|entry| Change::ReferenceValueRemoved {
        tee,
        entry: entry.name.clone(),
        measurement: entry.measurement().to_owned(),
    }));
    changes.extend(new.iter().map(|entry| Change::ReferenceValueAdded {
        tee,
        entry: entry.name.clone(),
        measurement: entry.measurement().to_owned(),
    }));
    changes
}

/// Takes out each entry of `old` with the first of `new` that is `alike`.
fn pair(
    old: &mut Vec<Entry>,
    new: &mut Vec<Entry>,
    alike: impl Fn(&Entry, &Entry) -> bool,
) -> Vec<(Entry, Entry)> {
    let mut pairs = Vec::new();
    for from in std::mem::take(old) {
        match new.iter().position(|to| alike(&from, to)) {
            Some(position) => pairs.push((from, new.remove(position))),
            None => old.push(from),
        }
    }
    pairs
}

const MEASUREMENTS: [&str; 2] = ["TrustedMeasurement", "MrTd"];
