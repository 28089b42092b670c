//! `serve`: a browser follows runs, stops and retries stages; requests without the token or from other sites are refused.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::stop::{outcomes, start_run, waiting_stages};
use crate::support::{Project, assert_contains, ignores_signal, kill, wait_until};

/// A running server.
struct Server {
    child: Child,
    /// `127.0.0.1:PORT`.
    address: String,
    /// The address that it printed.
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            kill(&mut self.child);
        }
    }
}

/// The answer to a request.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Server {
    fn start(project: &Project, arguments: &[&str]) -> Server {
        let arguments = [&["serve"], arguments].concat();
        let mut child = project.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let address = url.trim().trim_start_matches("http://").split('/').next().unwrap().to_string();
        Server { child, address, url: url.trim().to_string() }
    }

    fn open(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "Host") {
            text += &format!("Host: {}\r\n", self.address);
        }
        text.extend(headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")));
        stream.write_all((text + "\r\n").as_bytes()).unwrap();
        BufReader::new(stream)
    }

    fn request(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut bytes = Vec::new();
        self.open(method, path, headers).read_to_end(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {text}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_string(), body: body.to_string() }
    }

    fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[])
    }

    /// As a button of the page does.
    fn post(&self, path: &str, page: &str) -> Answer {
        let csrf = self.get(page).body.split("data-csrf=\"").nth(1).unwrap().split('"').next().unwrap().to_string();
        let origin = format!("http://{}", self.address);
        self.request("POST", path, &[("Origin", &origin), ("X-CSRF-Token", &csrf)])
    }
}

/// Reads server-sent events until one has a text, and returns how long that took.
fn wait_for_event(events: &mut BufReader<TcpStream>, text: &str) -> Duration {
    let begun = Instant::now();
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "the events ended without `{text}`");
    }
    begun.elapsed()
}

#[test]
fn pages_show_a_run_while_it_goes_on_and_its_results_afterwards() {
    let project = waiting_stages();
    let mut run = start_run(&project);
    let server = Server::start(&project, &["--port", "0"]);
    let home = server.get("/");
    assert_eq!(home.status, 200);
    assert_contains(&home.body, &["study", "running", "/runs/"]);
    let name = project.json(&["status"])["run"].as_str().unwrap().to_string();
    let page = server.get("/experiments/study");
    assert_contains(&page.body, &["is running", "<b>slow</b>", "data-events=\"/runs/"]);
    assert_contains(&server.get("/runs/latest").body, &["Stop the run", &name]);
    let mut events = server.open("GET", &format!("/runs/{name}/events"), &[]);
    wait_for_event(&mut events, "<b>slow</b>");
    let changed = Instant::now();
    std::fs::remove_file(project.path("hold-other")).unwrap();
    wait_for_event(&mut events, "<b>after-other</b> ran");
    // It takes about 1 s; the limit is generous, because other tests run at the same time.
    assert!(changed.elapsed() < Duration::from_secs(30));
    std::fs::remove_file(project.path("hold-slow")).unwrap();
    wait_for_event(&mut events, "event: end");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    let page = server.get(&format!("/runs/{name}")).body;
    assert_contains(&page, &["has finished", "4 ran", "/experiments/study?file=study.toml"]);
    assert!(!page.contains("data-events"));
    // The report is that of the new results.
    let report = server.get("/experiments/study").body;
    assert_contains(&report, &["the latest run of this experiment", "after-slow"]);
    assert!(!report.contains("is running"));
}

#[test]
fn a_log_is_followed_and_its_text_is_escaped() {
    let project = Project::new();
    let hold = project.path("hold").display().to_string();
    project.write("hold", "").write_study(&format!(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\noutputs = [\"out.txt\"]\n\
         run = '''echo '<script>alert(1)</script>'; while [ -e {hold} ]; do sleep 0.01; done; echo second; echo x > out.txt'''\n"
    ));
    let mut run = project.start(&["run", "study.toml"]);
    wait_until("it runs", &|| project.ablate(&["status"]).stdout.contains("running it"));
    let server = Server::start(&project, &["--port", "0"]);
    let address = "/runs/latest/logs/it";
    wait_until("the first line is there", &|| server.get(address).body.contains("&lt;script&gt;alert(1)"));
    let page = server.get(address);
    assert!(!page.body.contains("<script>alert"), "{}", page.body);
    let mut events = server.open("GET", &format!("{address}/events"), &[]);
    wait_for_event(&mut events, "alert(1)");
    std::fs::remove_file(project.path("hold")).unwrap();
    wait_for_event(&mut events, "second");
    assert_eq!(run.wait().unwrap().code(), Some(0));
    for path in ["/runs/latest/logs/other", "/runs/latest/logs/..%2F..%2Frun.json", "/runs/..%2F..%2Fetc/logs/it"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn a_stage_is_stopped_and_retried_from_the_page() {
    let project = waiting_stages();
    let mut run = start_run(&project);
    let server = Server::start(&project, &["--port", "0"]);
    let name = project.json(&["status"])["run"].as_str().unwrap().to_string();
    let page = format!("/runs/{name}");
    let (stop, retry) = (format!("{page}/stop?instance=slow"), format!("{page}/retry?instance=slow"));
    let refused = server.post(&retry, &page);
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_contains(&refused.body, &["run 1 of `study` is going on"]);
    assert_eq!(server.post(&format!("{page}/stop?instance=slwo"), &page).status, 409);
    assert_eq!(server.post(&stop, &page).status, 200);
    std::fs::remove_file(project.path("hold-other")).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(130));
    let expected = "slow interrupted, after-slow skipped (`slow` was stopped), other ran, after-other ran";
    assert_eq!(outcomes(&project, &name), expected);
    assert_contains(&server.post(&stop, &page).body, &["run 1 has ended (interrupted)"]);
    assert_eq!(server.post(&format!("{page}/retry?instance=none"), &page).status, 404);

    let started = server.post(&retry, &page);
    assert_eq!(started.status, 200, "{started:?}");
    let new = started.header("location").unwrap().trim_start_matches("/runs/").to_string();
    // The run goes on after the end of the server.
    drop(server);
    std::fs::remove_file(project.path("hold-slow")).unwrap();
    let ended = || {
        let status: Value =
            serde_json::from_str(&project.ablate(&["status", &new, "--json"]).stdout).unwrap_or_default();
        status["state"] == "finished"
    };
    wait_until("the retried run has ended", &ended);
    assert_contains(&outcomes(&project, &new), &["slow ran"]);
    // Its links are where those of the first run are.
    assert_eq!(project.read("out/study/slow/out.txt"), "hold-slow\n");

    // A run that cannot start says why.
    let server = Server::start(&project, &["--port", "0"]);
    let nothing = server.post(&format!("/runs/{new}/retry?instance=slow"), &page);
    assert_contains(&nothing.body, &["no run was started: everything is up to date"]);
    project.append("study.toml", "\nwrong = 1\n");
    let wrong = server.post(&retry, &page);
    assert_eq!(wrong.status, 409);
    assert_contains(&wrong.body, &["no run was started", "wrong"]);
}

#[test]
fn requests_of_other_sites_are_refused_and_every_answer_has_strict_headers() {
    let project = waiting_stages();
    let mut run = start_run(&project);
    let server = Server::start(&project, &["--port", "0"]);
    let name = project.json(&["status"])["run"].as_str().unwrap().to_string();
    let page = format!("/runs/{name}");
    for path in [
        "/",
        "/experiments/study",
        &page,
        "/live.js",
        "/live.css",
        "/nothing",
        "/experiments/nothing",
        "/../etc/passwd",
    ] {
        let answer = server.get(path);
        let policy = answer.header("content-security-policy").unwrap_or_default();
        assert_contains(policy, &["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "'sha256-"]);
        assert!(!policy.contains("unsafe"));
        let headers = [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ];
        for (name, value) in headers {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
    }
    for path in ["/nothing", "/experiments/nothing", "/runs/nothing", "/runs/%2E%2E", "/runs/..%2F..", "/../etc/passwd"]
    {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    assert_eq!(server.request("GET", "/", &[("Host", "evil.example")]).status, 403);
    assert_eq!(server.request("GET", "/", &[("Host", "localhost:1")]).status, 200);
    let stop = format!("{page}/stop");
    let origin = format!("http://{}", server.address);
    let csrf = server.get(&page).body.split("data-csrf=\"").nth(1).unwrap().split('"').next().unwrap().to_string();
    let refused: [&[(&str, &str)]; 4] = [
        &[],
        &[("Origin", &origin)],
        &[("Origin", "http://evil.example"), ("X-CSRF-Token", &csrf)],
        &[("X-CSRF-Token", &csrf)],
    ];
    for headers in refused {
        assert_eq!(server.request("POST", &stop, headers).status, 403, "{headers:?}");
    }
    assert_eq!(server.get(&stop).status, 405);
    assert!(!project.path(&format!("cache/runs/{name}/stop")).exists());
    kill(&mut run);
    assert_contains(&server.get(&page).body, &["was killed"]);
}

#[test]
fn a_token_is_needed_when_the_server_has_one() {
    let project = Project::with_study(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\noutputs = [\"o\"]\nrun = \"echo x > o\"\n",
    );
    project.ok(&["run", "study.toml"]);
    let server = Server::start(&project, &["--port", "0", "--bind", "0.0.0.0"]);
    let token = server.url.split("?token=").nth(1).unwrap().to_string();
    assert!(token.len() >= 32, "{}", server.url);
    assert_eq!(server.get("/").status, 401);
    assert_eq!(server.get("/?token=wrong").status, 401);
    let first = server.get(&format!("/runs/latest?token={token}"));
    assert_eq!((first.status, first.header("location")), (303, Some("/runs/latest")));
    let cookie = first.header("set-cookie").unwrap();
    assert_contains(cookie, &["HttpOnly", "SameSite=Strict"]);
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(server.request("GET", "/runs/latest", &[("Cookie", cookie)]).status, 200);
    assert_eq!(server.request("GET", "/live.js", &[]).status, 401);
    project.fails(2, &["serve", "--token", "short"]).stderr_has(&["the token has less than 16 characters"]);
}

#[test]
fn two_servers_take_different_ports_and_ctrl_c_ends_them() {
    let project = waiting_stages();
    project.fails(2, &["serve"]).stderr_has(&["there is no store at `cache`"]);
    project.write(
        "other.toml",
        "name = \"other\"\n[stage.it]\nkind = \"command\"\noutputs = [\"o\"]\nrun = \"echo x > o\"\n",
    );
    project.ok(&["run", "other.toml"]);
    let mut run = start_run(&project);
    let mut servers = [Server::start(&project, &[]), Server::start(&project, &["study.toml"])];
    assert_ne!(servers[0].address, servers[1].address);
    let port = servers[0].address.rsplit(':').next().unwrap();
    project.fails(2, &["serve", "--port", port]).stderr_has(&["is used by another program", "--port"]);
    // The second one shows only one experiment.
    assert!(servers[0].get("/").body.contains("other.toml"));
    assert!(!servers[1].get("/").body.contains("other.toml"));
    assert_eq!(servers[1].get("/experiments/other").status, 404);
    assert_eq!(servers[1].get("/runs/1").status, 404);
    // An open page does not delay the end.
    let mut events = servers[0].open("GET", "/runs/2/events", &[]);
    wait_for_event(&mut events, "<b>slow</b>");
    for server in &mut servers {
        let signal = if ignores_signal(2) { Signal::TERM } else { Signal::INT };
        kill_process(Pid::from_child(&server.child), signal).unwrap();
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    }
    kill(&mut run);
}

#[test]
fn an_experiment_with_an_error_shows_it_at_its_place() {
    let project = Project::with_study(
        "name = \"study\"\n[stage.it]\nkind = \"command\"\noutputs = [\"o\"]\nrun = \"echo x > o\"\n",
    );
    project.ok(&["run", "study.toml"]);
    let server = Server::start(&project, &["--port", "0"]);
    assert_eq!(server.get("/experiments/study").status, 200);
    project.edit("study.toml", "outputs", "outptus");
    let wrong = server.get("/experiments/study");
    assert_eq!(wrong.status, 422);
    assert_contains(&wrong.body, &["outptus", "study.toml:4"]);
    project.edit("study.toml", "outptus", "outputs");
    assert_eq!(server.get("/experiments/study").status, 200);
    project.fails(2, &["serve", "missing.toml"]).stderr_has(&["missing.toml"]);
}
