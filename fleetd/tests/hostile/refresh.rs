//! A login's tokens: each refresh token once, and all of them dead together.

use protocol::id::Role;
use serde_json::json;

use crate::common::{Answer, PASSWORD, Server};

fn server() -> Server {
    let server = Server::start();
    server.person("default", "anna", Role::Admin);
    server.person("default", "vera", Role::Viewer);
    server
}

/// Access token and refresh token.
type Tokens = (String, String);

fn tokens(answer: &Answer) -> Tokens {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let text = |field: &str| answer.body[field].as_str().unwrap().to_owned();
    (text("access_token"), text("refresh_token"))
}

fn login(server: &Server, password: &str) -> Tokens {
    tokens(
        &server.post("/api/v1/auth/login").json(&json!({"email": "vera@example.org", "password": password})),
    )
}

fn refresh(server: &Server, token: &str) -> Answer {
    server.post("/api/v1/auth/refresh").json(&json!({"refresh_token": token}))
}

fn lives(server: &Server, tokens: &Tokens) -> bool {
    let me = server.get("/api/v1/auth/me").bearer(&tokens.0).send().status;
    assert!(me == 200 || me == 401, "{me}");
    me == 200
}

#[test]
fn a_refresh_token_that_comes_again_ends_every_token_of_its_login_and_of_no_other() {
    let server = server();
    let (other, first) = (login(&server, PASSWORD), login(&server, PASSWORD));
    let second = tokens(&refresh(&server, &first.1));
    let third = tokens(&refresh(&server, &second.1));
    assert!(lives(&server, &first) && lives(&server, &second) && lives(&server, &third));
    // Whoever has it: the thief or the owner.
    refresh(&server, &first.1).is_problem(401);
    assert!(!lives(&server, &first) && !lives(&server, &second) && !lives(&server, &third));
    refresh(&server, &third.1).is_problem(401);
    assert!(lives(&server, &other));
    assert_eq!(refresh(&server, &other.1).status, 200);
    let told = server.audit_details("auth.refresh");
    assert!(told.iter().any(|details| details.contains("used twice")), "{told:?}");
}

#[test]
fn of_refreshes_at_the_same_moment_one_wins_at_most_and_the_login_is_over() {
    let server = server();
    for _ in 0..5 {
        let (access, token) = login(&server, PASSWORD);
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let calls: Vec<_> = (0..6).map(|_| scope.spawn(|| refresh(&server, &token))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        let won: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert!(won.len() <= 1, "{answers:?}");
        assert!(answers.iter().all(|answer| matches!(answer.status, 200 | 401 | 429)), "{answers:?}");
        assert!(!lives(&server, &(access, token)));
        for won in won {
            assert!(!lives(&server, &tokens(won)));
            assert_ne!(refresh(&server, &tokens(won).1).status, 200);
        }
    }
}

#[test]
fn tokens_die_with_the_account_and_with_the_password() {
    let server = server();
    let list = server.get("/api/v1/users").by_person("anna").send();
    let vera = list.body["items"].as_array().unwrap().iter().find(|user| user["username"] == "vera").unwrap();
    let path = format!("/api/v1/users/{}", vera["id"].as_str().unwrap());
    let patch = |body| assert_eq!(server.call("PATCH", &path).by_person("anna").json(&body).status, 200);
    let dead = |tokens: &Tokens| {
        assert!(!lives(&server, tokens));
        assert_ne!(refresh(&server, &tokens.1).status, 200);
    };

    let tokens = login(&server, PASSWORD);
    patch(json!({"is_active": false}));
    dead(&tokens);
    patch(json!({"is_active": true}));
    dead(&tokens);

    let tokens = login(&server, PASSWORD);
    let change = json!({"old": PASSWORD, "new": "quite another horse"});
    assert_eq!(server.post("/api/v1/auth/password").bearer(&tokens.0).json(&change).status, 204);
    dead(&tokens);

    let tokens = login(&server, "quite another horse");
    let reset = server.post(&format!("{path}/reset-password")).by_person("anna");
    assert_eq!(reset.json(&json!({"password": "yet another horse"})).status, 200);
    dead(&tokens);
    login(&server, "yet another horse");
}
