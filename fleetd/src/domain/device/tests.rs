#![allow(clippy::unwrap_used)]

use super::*;

fn read(body: Value) -> Result<Registration, Vec<String>> {
    Registration::read(body).map_err(|errors| errors.into_iter().map(|error| error.field).collect())
}

#[test]
fn a_registration_needs_nothing_but_an_id() {
    let registration = read(json!({"device_id": "studio-001"})).unwrap();
    assert_eq!(registration.name, "studio-001");
    assert_eq!(registration.arch, "aarch64");
}

#[test]
fn a_bad_id_is_told_with_the_reason() {
    for bad in ["", "Studio", "a+b", "a#", "a/b", "a\0b", "ü", "-a", &"a".repeat(64)] {
        let errors = Registration::read(json!({"device_id": bad})).unwrap_err();
        assert_eq!(errors[0].field, "device_id", "{bad:?}");
        assert!(!errors[0].message.is_empty());
    }
    assert_eq!(read(json!({})).unwrap_err(), ["device_id"]);
}

#[test]
fn unknown_fields_and_bad_hashes_are_refused() {
    let body = json!({"device_id": "a", "token_sha256": "zz", "tokn": "x"});
    assert_eq!(read(body).unwrap_err(), ["token_sha256", "tokn"]);
}

#[test]
fn stored_json_is_bounded_at_16_kib() {
    let big = json!({"device_id": "a", "capabilities": {"x": "y".repeat(16 * 1024)}});
    assert_eq!(read(big).unwrap_err(), ["capabilities"]);
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let before = Description {
        name: "A".to_owned(),
        location: None,
        tags: Vec::new(),
        metadata: json!({}),
        notes: None,
        update_channel: UpdateChannel::Stable,
        target_version: None,
        redundancy_group: None,
        maintenance: false,
    };
    let patch = DevicePatch::read(json!({"tags": ["hall-2", "cam", "cam"], "location": "Hall 2"})).unwrap();
    assert!(!patch.touches_target_version());
    let after = patch.apply(&before);
    assert_eq!(after.tags, ["cam", "hall-2"]);
    assert_eq!(before.changes_to(&after)["location"]["to"], "Hall 2");
    let cleared = DevicePatch::read(json!({"location": null})).unwrap().apply(&after);
    assert_eq!(cleared.location, None);
    assert_eq!(cleared.tags, after.tags);
}

#[test]
fn a_patch_names_every_bad_field() {
    let body = json!({"name": null, "tags": ["has space"], "update_channel": "daily", "maintenance": 1, "status": "x"});
    let errors = DevicePatch::read(body).unwrap_err();
    let fields: Vec<_> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["name", "tags", "update_channel", "maintenance", "status"]);
}

/// Any JSON, under names that are looked for and others.
fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,70}".prop_map(Value::from),
    ];
    let names =
        "device_id|name|tags|metadata|capabilities|token_sha256|maintenance|target_version|[a-z]{1,3}";
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(names, inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn any_body_gives_a_registration_or_names_what_is_wrong(body in any_json()) {
        match Registration::read(body) {
            Ok(registration) => proptest::prop_assert!(registration.capabilities.to_string().len() <= STORED_JSON_MAX_BYTES),
            Err(errors) => proptest::prop_assert!(!errors.is_empty()),
        }
    }

    #[test]
    fn any_body_gives_a_change_or_names_what_is_wrong(body in any_json()) {
        match DevicePatch::read(body) {
            Ok(_) => {}
            Err(errors) => proptest::prop_assert!(!errors.is_empty()),
        }
    }
}
