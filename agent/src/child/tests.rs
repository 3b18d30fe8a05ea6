#![allow(clippy::unwrap_used)]

use super::*;

fn limits(seconds: u64) -> Limits {
    Limits { time: Duration::from_secs(seconds), keep: 8192, with_stderr: true, mark: Some(new_mark()) }
}

fn shell(text: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", text]);
    command
}

fn is_gone(pid: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    let pid: i32 = pid.trim().parse().unwrap();
    while Instant::now() < deadline {
        // A zombie has ended; whoever adopted it reaps it when it likes.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if !crate::lock::is_alive(pid) || stat.contains(") Z ") {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn what_the_agent_starts_cannot_speak_for_it_to_systemd() {
    let mut command = shell("echo ${NOTIFY_SOCKET-none} ${WATCHDOG_USEC-none} ${WATCHDOG_PID-none}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        command.env(name, "1");
    }
    assert_eq!(run(command, &limits(30)).unwrap().output.text, "none none none\n");
}

#[test]
fn output_of_both_kinds_comes_in_order_with_the_exit_status() {
    let ended = run(shell("echo one; echo two >&2; echo three; exit 3"), &limits(30)).unwrap();
    assert_eq!(ended.output.text, "one\ntwo\nthree\n");
    assert_eq!(ended.status.unwrap().code(), Some(3));
    assert!(!ended.timed_out && !ended.left_behind);
}

#[test]
fn standard_error_is_dropped_where_it_is_not_wanted() {
    let ended = run(shell("echo one; echo two >&2"), &Limits { with_stderr: false, ..limits(30) }).unwrap();
    assert_eq!(ended.output.text, "one\n");
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    let error = run(Command::new("/no/such/program"), &limits(30)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn hundreds_of_megabytes_of_output_are_read_and_forgotten() {
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap().to_owned();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let before = peak();
    let ended = run(shell("echo first; head -c 200000000 /dev/zero; echo last"), &limits(60)).unwrap();
    assert_eq!(ended.output.total_bytes, 200_000_000 + 11);
    assert!(ended.output.truncated && ended.output.text.len() < 17_000, "{}", ended.output.text.len());
    assert!(ended.output.text.starts_with("first\n") && ended.output.text.ends_with("last\n"));
    assert!(peak() - before < 32 * 1024, "{before} to {}", peak());
}

#[test]
fn a_program_over_its_time_ends_together_with_what_it_started() {
    let ended = run(shell("sleep 600 & echo $!; echo $$; wait"), &limits(1)).unwrap();
    assert!(ended.timed_out && ended.took >= Duration::from_secs(1));
    assert!(ended.output.text.lines().all(is_gone), "{}", ended.output.text);
}

#[test]
fn a_program_that_does_not_listen_to_sigterm_is_killed() {
    let ended = run(shell("trap '' TERM; echo ready; while :; do sleep 1; done"), &limits(1)).unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(ended.status.unwrap().signal(), Some(9));
    assert!(ended.timed_out && ended.took < Duration::from_secs(5));
}

#[test]
fn a_grandchild_in_a_session_of_its_own_is_found_and_holds_nobody_up() {
    let ended = run(shell("setsid sh -c 'echo $$; exec sleep 600' & sleep 0.5"), &limits(60)).unwrap();
    assert!(!ended.timed_out && ended.left_behind);
    assert!(ended.took < Duration::from_secs(20));
    assert!(is_gone(&ended.output.text), "{}", ended.output.text);
}

#[test]
fn what_an_agent_before_this_one_has_left_behind_is_found_by_its_mark() {
    let limits = limits(60);
    let mark = limits.mark.clone().unwrap();
    let mut child = shell("sleep 600").env(MARK_VARIABLE, &mark).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while end_marked(&mark) == 0 && Instant::now() < deadline {}
    assert!(!child.wait().unwrap().success());
    assert_eq!(end_marked(&mark), 0);
}
