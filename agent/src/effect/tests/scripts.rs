//! `custom`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::fake::*;
use crate::effect::*;

struct Scripts {
    root: tempfile::TempDir,
}

impl Scripts {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for name in ["scripts", "scripts/sub", "elsewhere"] {
            fs::create_dir(root.path().join(name)).unwrap();
            fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn add(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path("scripts").join(name);
        script(&path, text);
        path
    }

    fn prepare(&self, name: &str, args: &[&str]) -> Result<Prepared, Refusal> {
        let config = config(&format!("SCRIPTS_DIR={}\n", self.path("scripts").display()));
        let payload = json!({ "script": name, "args": args });
        prepare(Payload::parse("custom".parse().unwrap(), &payload).unwrap(), &config)
    }

    fn refusal(&self, name: &str) -> String {
        self.prepare(name, &[]).unwrap_err().to_string()
    }

    fn run(&self, name: &str, args: &[&str], limit: Duration) -> Outcome {
        let prepared = self.prepare(name, args).unwrap();
        assert!(prepared.is_disruptive());
        prepared.run(&from_journal(&prepared.observe(&kernel())), limit, &context())
    }

    fn completed(&self, name: &str, args: &[&str]) -> Value {
        match self.run(name, args, LONG) {
            Outcome::Completed(result) => result,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_script_gets_its_arguments_as_they_are_and_an_environment_without_the_agents() {
    let scripts = Scripts::new();
    let path = scripts.add(
        "sub/show.sh",
        "#!/bin/sh\nfor a in \"$@\"; do printf '<%s>' \"$a\"; done; echo\npwd -P\nenv | sort | cut -d= -f1 | grep -v -e _ -e \
         PWD -e SHLVL\necho $R58_COMMAND_ID $R58_DEVICE_ID $R58_SCRIPT\n[ -t 0 ] || read line || echo end of input\n",
    );
    let result = scripts.completed("sub/show.sh", &["a b", "$(id)", ";", "*", "-x", ""]);
    let real_folder = fs::canonicalize(path.parent().unwrap()).unwrap();
    let expected = format!(
        "<a b><$(id)><;><*><-x><>\n{}\nHOME\nLANG\nPATH\nc-1 studio-001 {}\nend of input\n",
        real_folder.display(),
        path.display()
    );
    assert_eq!(result["output"], expected);
    assert_eq!((&result["exit_code"], &result["truncated"]), (&json!(0), &json!(false)));
    let names = scripts.add("names.sh", "#!/usr/bin/env bash\nenv | cut -d= -f1 | sort | tr '\\n' ' '\n");
    assert!(names.exists());
    let result = scripts.completed("names.sh", &[]);
    let expected =
        "HOME LANG PATH PWD R58_APP_DIR R58_COMMAND_ID R58_DEVICE_ID R58_RUN_MARK R58_SCRIPT SHLVL _ ";
    assert_eq!(result["output"], expected);
}

#[test]
fn a_script_that_fails_tells_its_exit_code_and_what_it_said() {
    let scripts = Scripts::new();
    scripts.add("bad.sh", "#!/bin/sh\necho oh >&2\nexit 7\n");
    let Outcome::Failed { error, result: Some(result) } = scripts.run("bad.sh", &[], LONG) else { panic!() };
    assert_eq!(error, "the script ended with exit code 7");
    assert_eq!((&result["exit_code"], &result["output"]), (&json!(7), &json!("oh\n")));
    scripts.add("killed.sh", "#!/bin/sh\nkill -9 $$\n");
    let Outcome::Failed { error, result: Some(result) } = scripts.run("killed.sh", &[], LONG) else {
        panic!()
    };
    assert_eq!(error, "the script was ended by signal 9");
    assert_eq!(result["signal"], 9);
}

#[test]
fn no_path_leads_out_of_the_approved_folder() {
    let scripts = Scripts::new();
    script(&scripts.path("elsewhere/evil.sh"), "#!/bin/sh\n");
    scripts.add("good.sh", "#!/bin/sh\n");
    let absolute = scripts.path("elsewhere/evil.sh").display().to_string();
    let bad = [
        "../elsewhere/evil.sh",
        "sub/../../elsewhere/evil.sh",
        "..",
        ".",
        "./good.sh",
        "sub/../good.sh",
        "good.sh/",
        "sub//x.sh",
        "/bin/sh",
        &absolute,
        "sub/./x.sh",
    ];
    for name in bad {
        assert!(scripts.refusal(name).starts_with("invalid: "), "{name}: {}", scripts.refusal(name));
    }
    assert!(scripts.prepare("good.sh", &[]).is_ok());
}

#[test]
fn whatever_the_name_nothing_outside_the_folder_is_ever_run() {
    let scripts = Scripts::new();
    script(&scripts.path("elsewhere/evil.sh"), "#!/bin/sh\n");
    scripts.add("good.sh", "#!/bin/sh\n");
    scripts.add("sub/good.sh", "#!/bin/sh\n");
    symlink(scripts.path("elsewhere"), scripts.path("scripts/link")).unwrap();
    let part = || {
        prop::sample::select(vec!["..", ".", "", "sub", "link", "good.sh", "evil.sh", "elsewhere", "scripts"])
    };
    let names = prop::collection::vec(part(), 1..6).prop_map(|parts| parts.join("/"));
    proptest!(ProptestConfig::with_cases(500), |(name in names)| {
        let name: String = name;
        let may_run = name == "good.sh" || name == "sub/good.sh";
        prop_assume!(!name.is_empty());
        prop_assert_eq!(scripts.prepare(&name, &[]).is_ok(), may_run, "{}", name);
    });
}

#[test]
fn no_link_is_followed_be_it_a_file_or_a_folder() {
    let scripts = Scripts::new();
    script(&scripts.path("elsewhere/evil.sh"), "#!/bin/sh\n");
    scripts.add("good.sh", "#!/bin/sh\n");
    symlink(scripts.path("elsewhere/evil.sh"), scripts.path("scripts/link.sh")).unwrap();
    symlink("good.sh", scripts.path("scripts/inside.sh")).unwrap();
    symlink(scripts.path("elsewhere"), scripts.path("scripts/folder")).unwrap();
    for name in ["link.sh", "inside.sh", "folder/evil.sh"] {
        assert!(scripts.refusal(name).contains("is a symbolic link"), "{name}: {}", scripts.refusal(name));
    }
}

#[test]
fn what_is_no_executable_file_of_the_owner_is_refused_with_what_to_do() {
    let scripts = Scripts::new();
    let mode = |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let path = scripts.add("x.sh", "#!/bin/sh\n");
    mode(&path, 0o644);
    assert!(scripts.refusal("x.sh").ends_with("x.sh is not executable (chmod +x)"));
    mode(&path, 0o757);
    assert!(scripts.refusal("x.sh").ends_with("x.sh can be written by others (mode 757; chmod go-w)"));
    mode(&path, 0o755);
    assert!(scripts.prepare("x.sh", &[]).is_ok());
    mode(&scripts.path("scripts"), 0o777);
    assert!(scripts.refusal("x.sh").contains("scripts can be written by others"));
    mode(&scripts.path("scripts"), 0o755);
    assert!(scripts.refusal("sub").contains("is not a regular file"));
    assert!(scripts.refusal("missing.sh").ends_with("missing.sh does not exist"));
    assert!(scripts.refusal("x.sh/y").contains("x.sh is not a folder"));
    nix::unistd::mkfifo(&scripts.path("scripts/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(scripts.refusal("fifo").contains("is not a regular file"));
    fs::remove_dir_all(scripts.path("scripts")).unwrap();
    assert!(scripts.refusal("x.sh").ends_with("scripts does not exist"));
}

#[test]
fn a_script_that_belongs_to_somebody_else_is_refused() {
    let scripts = Scripts::new();
    let path = scripts.add("x.sh", "#!/bin/sh\n");
    // Only root may give files away.
    if std::os::unix::fs::chown(&path, Some(4242), None).is_ok() {
        assert!(scripts.refusal("x.sh").contains("x.sh belongs to user 4242"));
    }
}

#[test]
fn what_was_looked_at_is_what_runs_whatever_becomes_of_its_name() {
    let scripts = Scripts::new();
    let path = scripts.add("x.sh", "#!/bin/sh\necho good\n");
    let evil = scripts.path("elsewhere/evil.sh");
    script(&evil, "#!/bin/sh\necho evil\n");
    let prepared = scripts.prepare("x.sh", &[]).unwrap();
    let observed = prepared.observe(&kernel());
    // Swapped for a link after it was approved: the second look before the start notices.
    fs::remove_file(&path).unwrap();
    symlink(&evil, &path).unwrap();
    let Outcome::Failed { error, result: None } = prepared.run(&observed, LONG, &context()) else { panic!() };
    assert!(error.contains("is a symbolic link"));
    // Swapped all the time: what starts has either been looked at, or nothing starts.
    let stop = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = fs::remove_file(&path);
                script(&path.with_extension("new"), "#!/bin/sh\necho good\n");
                fs::rename(path.with_extension("new"), &path).unwrap();
                let _ = fs::remove_file(&path);
                symlink(&evil, &path).unwrap();
            }
        });
        for _ in 0..50 {
            match prepared.run(&observed, LONG, &context()) {
                Outcome::Completed(result) => assert_eq!(result["output"], "good\n"),
                Outcome::Failed { result: None, .. } => {}
                other => panic!("{other:?}"),
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn a_script_that_cannot_be_started_says_what_is_missing() {
    let scripts = Scripts::new();
    scripts.add("x.sh", "#!/no/such/interpreter\n");
    let Outcome::Failed { error, .. } = scripts.run("x.sh", &[], LONG) else { panic!() };
    assert!(error.contains("x.sh cannot be started") && error.contains("first line (#!)"), "{error}");
    scripts.add("y.sh", "echo no first line\n");
    let Outcome::Failed { error, .. } = scripts.run("y.sh", &[], LONG) else { panic!() };
    assert!(error.contains("needs a first line like #!/bin/sh"), "{error}");
}

#[test]
fn much_output_fits_the_report() {
    let scripts = Scripts::new();
    scripts.add("much.sh", "#!/bin/sh\necho first\nyes '\"\\' | head -c 3000000\necho last\n");
    let result = scripts.completed("much.sh", &[]);
    assert_eq!((&result["truncated"], &result["output_bytes"]), (&json!(true), &json!(3_000_011)));
    let output = result["output"].as_str().unwrap();
    assert!(output.starts_with("first\n") && output.ends_with("last\n"));
    assert!(result.to_string().len() < protocol::command::limits::RESULT_MAX_LEN);
}

#[test]
fn a_script_that_forks_and_hangs_is_ended_with_all_it_started() {
    let scripts = Scripts::new();
    scripts.add(
        "hang.sh",
        "#!/bin/bash\ntrap '' TERM\nsetsid sleep 600 &\nsetsid bash -c 'sleep 600 & exec sleep 600' &\nsleep 600 &\n\
         echo here\nwait\nwhile :; do sleep 1; done\n",
    );
    let prepared = scripts.prepare("hang.sh", &[]).unwrap();
    let observed = prepared.observe(&kernel());
    let started = Instant::now();
    let outcome = prepared.run(&observed, Duration::from_secs(1), &context());
    let Outcome::TimedOut { error, result: Some(result) } = outcome else { panic!("{outcome:?}") };
    assert_eq!(error, "the script ran longer than 1 s and was ended");
    assert_eq!(result["output"], "here\n");
    assert!(started.elapsed() < Duration::from_secs(20));
    // None is left that a look after a crash would find.
    let Probed::Unknown(why) = observed.probe(&kernel()) else { panic!() };
    assert_eq!(why, "the agent was interrupted while the script hang.sh ran");
}

#[test]
fn a_script_that_outlives_the_agent_is_ended_by_the_next_one() {
    let scripts = Scripts::new();
    let file = scripts.path("elsewhere/pid");
    scripts.add("long.sh", &format!("#!/bin/sh\necho $$ > {}\nexec sleep 600\n", file.display()));
    let prepared = scripts.prepare("long.sh", &[]).unwrap();
    let observed = from_journal(&prepared.observe(&kernel()));
    thread::scope(|scope| {
        let run = scope.spawn(|| prepared.run(&observed, Duration::from_secs(60), &context()));
        let deadline = Instant::now() + LONG;
        while !fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n')) {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(10));
        }
        let Probed::Unknown(why) = observed.probe(&kernel()) else { panic!() };
        assert!(why.ends_with("it was still running, and was ended"), "{why}");
        let Outcome::Failed { error, .. } = run.join().unwrap() else { panic!() };
        assert_eq!(error, "the script was ended by signal 9");
    });
}
