use super::*;

#[tokio::test]
async fn decommissioning_ends_what_is_open_before_the_id_can_be_registered_again() {
    let bench = Bench::new(&["cam-1"]).await;
    let admin = bench.person("root", Role::Admin).await;
    let pending = bench.one(&admin, json!({"to": "cam-1", "type": "reboot"})).await;
    let running = bench.one(&admin, json!({"to": "cam-1", "type": "ping"})).await;
    bench.bring(&running, CommandState::Running, None, 2).await;
    let context = Bench::context(&admin);
    crate::service::devices::decommission(&bench.app, &admin, "cam-1", &context).await.unwrap();
    let (pending, running) = (bench.stored(&pending).await, bench.stored(&running).await);
    assert_eq!(pending.state(), CommandState::Cancelled);
    assert_eq!(pending.reason.as_deref(), Some("the device was decommissioned"));
    assert_eq!((running.state(), running.standing.inferred), (CommandState::Indeterminate, true));
}
