//! Whether a command would run at once if it were sent now. Pure.

use super::command::APP_STATUS_UNKNOWN;
use super::command_request::CreateRequest;

/// How a device stands, as far as the server knows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts, each from a table of its own")]
pub struct Situation {
    /// An admin has said yes to it.
    pub approved: bool,
    /// It is heard.
    pub online: bool,
    /// Whether a show is on, as it said last; `None`: it cannot tell, or never said.
    pub live: Option<bool>,
    /// What its agent can do; `None`: it speaks only HTTP, and does not say.
    pub command_types: Option<Vec<String>>,
    /// A show lock stands.
    pub locked: bool,
    /// A device of its redundancy group, perhaps itself, is not heard.
    pub group_away: bool,
    /// Another device of its redundancy group has the group's lease.
    pub lease_taken: bool,
}

impl Situation {
    /// What would keep the command from running at once: a fixed word, a colon, and the same for people. The first that
    /// applies.
    #[must_use]
    pub fn obstacle(&self, request: &CreateRequest) -> Option<String> {
        if !self.approved {
            return Some("awaiting_approval: an admin has not approved the device".to_owned());
        }
        if !self.online {
            return Some("offline: the device is not heard; the command would wait for it".to_owned());
        }
        let can = |types: &Vec<String>| types.iter().any(|name| name == request.kind.as_str());
        if self.command_types.as_ref().is_some_and(|types| !can(types)) {
            return Some(format!("unsupported: the device's agent does not know {}", request.kind));
        }
        if !request.disruptive {
            return None;
        }
        if request.override_reason.is_none() {
            if self.locked {
                return Some("show_lock: a show lock stands".to_owned());
            }
            match self.live {
                Some(false) => {}
                Some(true) => return Some("live: a show is on".to_owned()),
                None => {
                    return Some(format!(
                        "{APP_STATUS_UNKNOWN}: the device cannot tell whether a show is on"
                    ));
                }
            }
        }
        if self.group_away {
            return Some("awaiting_lease: another device of its redundancy group is offline".to_owned());
        }
        self.lease_taken.then(|| "awaiting_lease: it is the turn of another device of its group".to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::command_request::Target;

    fn ready() -> Situation {
        Situation {
            approved: true,
            online: true,
            live: Some(false),
            command_types: Some(vec!["ping".to_owned(), "reboot".to_owned(), "restart_service".to_owned()]),
            locked: false,
            group_away: false,
            lease_taken: false,
        }
    }

    fn told(situation: &Situation, body: serde_json::Value) -> Option<String> {
        let request = CreateRequest::read(body, Some(Target::All)).unwrap();
        situation.obstacle(&request).map(|text| text.split(':').next().unwrap().to_owned())
    }

    #[test]
    fn a_ready_device_runs_everything_that_its_agent_knows() {
        assert_eq!(told(&ready(), json!({"type": "ping"})), None);
        assert_eq!(told(&ready(), json!({"type": "reboot"})), None);
        let unknown = json!({"type": "rotate_token"});
        assert_eq!(told(&ready(), unknown.clone()).as_deref(), Some("unsupported"));
        assert_eq!(told(&Situation { command_types: None, ..ready() }, unknown), None);
    }

    #[test]
    fn each_obstacle_to_a_disruptive_command_is_told_and_a_safe_one_passes() {
        let cases = [
            (Situation { locked: true, live: Some(true), ..ready() }, "show_lock"),
            (Situation { live: Some(true), ..ready() }, "live"),
            (Situation { live: None, ..ready() }, "app_status_unknown"),
            (Situation { group_away: true, ..ready() }, "awaiting_lease"),
            (Situation { lease_taken: true, ..ready() }, "awaiting_lease"),
        ];
        for (situation, word) in cases {
            assert_eq!(told(&situation, json!({"type": "reboot"})).as_deref(), Some(word));
            assert_eq!(told(&situation, json!({"type": "ping"})), None, "{word}");
            let own = json!({"type": "restart_service", "payload": {"service": "r58-fleet-agent"}});
            assert_eq!(told(&situation, own), None, "{word}");
            let overridden = json!({"type": "reboot", "override_show": {"reason": "now"}});
            let passes = word != "awaiting_lease";
            assert_eq!(told(&situation, overridden).is_none(), passes, "{word}");
        }
    }

    #[test]
    fn nothing_runs_on_a_device_that_is_away_or_not_approved() {
        let away = Situation { online: false, ..ready() };
        assert_eq!(told(&away, json!({"type": "ping"})).as_deref(), Some("offline"));
        let waiting = Situation { approved: false, online: false, ..ready() };
        assert_eq!(told(&waiting, json!({"type": "ping"})).as_deref(), Some("awaiting_approval"));
    }
}
