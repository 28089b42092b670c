//! The pages and the other addresses of the server.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;

use super::error_page::error_page;
use super::fragments::{self, STYLE, encode, experiment_address};
use super::live::Topic;
use super::reports::ReportKey;
use super::{Site, access, blocking};
use ablate_engine::RunPhase;
use ablate_engine::follow::RunFollower;
use ablate_engine::history::{self, RunSummary, Status};
use ablate_engine::stop::request_stop;
use ablate_report::html::{document, duration, escape};
use ablate_store::ExperimentId;

/// Most runs on the first page.
const MAX_RUNS: usize = 100;

const SCRIPTS: &[&str] = &["/live.js"];

/// Answers all requests.
pub(super) fn router(site: Arc<Site>) -> Router {
    let asset = |kind: &'static str, text: &'static str| get(move || async move { ([(CONTENT_TYPE, kind)], text) });
    Router::new()
        .route("/", get(home))
        .route("/live.js", asset("text/javascript; charset=utf-8", include_str!("live.js")))
        .route("/live.css", asset("text/css; charset=utf-8", include_str!("live.css")))
        .route("/experiments/{name}", get(experiment))
        .route("/runs/{run}", get(run))
        .route("/runs/{run}/events", get(run_events))
        .route("/runs/{run}/report", get(run_report))
        .route("/runs/{run}/stop", post(stop))
        .route("/runs/{run}/retry", post(retry))
        .route("/runs/{run}/logs/{instance}", get(log))
        .route("/runs/{run}/logs/{instance}/events", get(log_events))
        .fallback(|| async { error_page(StatusCode::NOT_FOUND, "There is no such page.") })
        .layer(from_fn_with_state(site.clone(), access::guard))
        .with_state(site)
}

/// An error with its causes, as a page.
struct Problem(StatusCode, String);

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Problem {
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        Problem(StatusCode::INTERNAL_SERVER_ERROR, causes.join("\n  because "))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        error_page(self.0, &self.1)
    }
}

type Answer = Result<Response, Problem>;

impl Site {
    fn shows(&self, id: &ExperimentId) -> bool {
        self.experiments.is_empty() || self.experiments.contains(id)
    }

    /// The run that a part of an address names: its name, its number or `latest`. Its experiment must be one that is shown.
    fn find_run(&self, name: &str) -> Result<RunFollower, Problem> {
        let not_found = |error: anyhow::Error| Problem(StatusCode::NOT_FOUND, error.to_string());
        let run = history::find(&self.store, name).map_err(not_found)?;
        let follower = RunFollower::open(&self.store, &run)?;
        if !self.shows(&follower.status().run.experiment) {
            let text = format!("Run {run} is one of an experiment that this server does not show.");
            return Err(Problem(StatusCode::NOT_FOUND, text));
        }
        Ok(follower)
    }

    /// The experiments: those that were named, or else those of the store's entries and runs.
    fn experiments(&self, runs: &[RunSummary]) -> Result<BTreeSet<ExperimentId>> {
        if !self.experiments.is_empty() {
            return Ok(self.experiments.iter().cloned().collect());
        }
        let noted = self.store.experiments()?.into_iter().map(|entry| entry.id);
        let all = noted.chain(runs.iter().map(|run| run.run.experiment.clone()));
        Ok(all.filter(|id| !id.file.is_empty()).collect())
    }

    /// The run of an experiment that is going on.
    pub(super) fn running(&self, id: &ExperimentId) -> Result<Option<RunFollower>> {
        for run in history::running(&self.store)?.into_iter().rev() {
            let follower = RunFollower::open(&self.store, &run)?;
            if follower.status().run.experiment == *id {
                return Ok(Some(follower));
            }
        }
        Ok(None)
    }

    /// The part of a page that follows a run.
    fn live_part(&self, follower: &RunFollower) -> String {
        let status = follower.status();
        let run = &status.run.run;
        let events = match status.state {
            RunPhase::Running => format!(" data-events=\"/runs/{}/events\"", encode(run)),
            _ => String::new(),
        };
        let logs = fragments::logs(&self.store, run, &fragments::shown_logs(&status));
        format!(
            "{STYLE}<section id=\"live\"{events} data-csrf=\"{}\" aria-labelledby=\"live-title\">\
             <h2 id=\"live-title\"><a href=\"/runs/{}\">Run {}</a></h2>\
             <p id=\"answer\" role=\"alert\"></p><p data-part=\"news\" role=\"status\" aria-live=\"polite\">{}</p>\
             <div data-part=\"state\">{}</div><div data-part=\"curves\">{}</div><div data-part=\"logs\">{logs}</div></section>",
            escape(&self.access.csrf),
            encode(run),
            status.run.number,
            fragments::news(&status),
            fragments::state(follower, &status),
            fragments::curves(follower),
        )
    }
}

fn page(title: &str, header: &str, main: &str) -> Response {
    let body = format!(
        "<a class=\"skip\" href=\"#main\">to the content</a><header><h1>{}</h1>{header}</header>\n<main id=\"main\">{main}</main>\n",
        escape(title)
    );
    Html(document(title, &body, SCRIPTS)).into_response()
}

const HOME_LINK: &str = "<nav aria-label=\"pages\"><ul><li><a href=\"/\">All runs</a></li></ul></nav>";

async fn home(State(site): State<Arc<Site>>) -> Answer {
    blocking(move || {
        let wanted = |summary: &RunSummary| site.shows(&summary.run.experiment);
        let (mut runs, unreadable) = history::list(&site.store, MAX_RUNS, &wanted)?;
        runs.reverse();
        runs.sort_by_key(|run| run.state != RunPhase::Running);
        let mut main = String::from("<section aria-labelledby=\"experiments\"><h2 id=\"experiments\">Experiments</h2><ul>");
        let experiments = site.experiments(&runs)?;
        for id in &experiments {
            let (address, name, file) = (experiment_address(id), escape(&id.name), escape(&id.file));
            _ = write!(main, "<li><a href=\"{address}\">{name}</a> <small class=\"muted\">{file}</small></li>");
        }
        main.push_str("</ul>");
        if experiments.is_empty() {
            main.push_str("<p>None yet: <code>ablate run FILE</code> adds one.</p>");
        }
        main.push_str("</section><section aria-labelledby=\"runs\"><h2 id=\"runs\">Runs</h2>");
        let heads = ["Run", "Experiment", "State", "Started", "Time", "Instances"];
        let heads = heads.map(|head| format!("<th scope=\"col\">{head}</th>")).concat();
        _ = write!(
            main,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"runs\"><table><thead><tr>{heads}</tr></thead><tbody>{}</tbody></table></div>",
            runs.iter().map(row).collect::<String>()
        );
        if runs.len() == MAX_RUNS {
            _ = write!(main, "<p class=\"sub\">The latest {MAX_RUNS}; <code>ablate runs</code> lists more.</p>");
        }
        if !unreadable.is_empty() {
            let names = escape(&unreadable.join(", "));
            _ = write!(main, "<p>{} runs are not listed, because they cannot be read: {names}</p>", unreadable.len());
        }
        main.push_str("</section>");
        Ok(page("ablate", "", &(STYLE.to_string() + &main)))
    })
    .await
}

fn row(summary: &RunSummary) -> String {
    let run = &summary.run;
    let counts: Vec<String> = summary.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
    let started = run.started.split('.').next().unwrap_or_default().replace('T', " ");
    let cells = [
        escape(&run.experiment.name),
        summary.state.name().to_string(),
        escape(&started),
        duration(summary.elapsed),
        escape(&counts.join(", ")),
    ];
    let cells = cells.map(|cell| format!("<td>{cell}</td>")).concat();
    format!("<tr><th scope=\"row\"><a href=\"/runs/{}\">{}</a></th>{cells}</tr>", encode(&run.run), run.number)
}

#[derive(Deserialize)]
struct ExperimentQuery {
    file: Option<String>,
}

async fn experiment(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
    Query(query): Query<ExperimentQuery>,
) -> Answer {
    let looked_at = site.clone();
    let (id, live) = blocking(move || -> Result<(ExperimentId, String), Problem> {
        let site = looked_at;
        let (runs, _) = history::list(&site.store, MAX_RUNS, &|_| true)?;
        let all = site.experiments(&runs)?;
        let file = query.file.as_ref();
        let mut found = all.iter().filter(|id| id.name == name && file.is_none_or(|file| id.file == *file));
        let id = match (found.next(), found.next()) {
            (Some(id), None) => id.clone(),
            (None, _) => {
                let text = format!("There is no experiment `{name}` here.");
                return Err(Problem(StatusCode::NOT_FOUND, text));
            }
            (Some(first), Some(second)) => {
                let text = format!(
                    "Several files have experiments of this name: add `?file={}` or `?file={}` to the address.",
                    first.file, second.file
                );
                return Err(Problem(StatusCode::MULTIPLE_CHOICES, text));
            }
        };
        let running = site.running(&id)?;
        let live = match running {
            Some(follower) => site.live_part(&follower),
            None => match runs.iter().rev().find(|run| run.run.experiment == id) {
                Some(last) => format!(
                    "{STYLE}<p class=\"sub\"><a href=\"/\">All runs</a>; <a href=\"/runs/{}\">the latest run of this experiment</a></p>",
                    encode(&last.run.run)
                ),
                None => format!("{STYLE}<p class=\"sub\"><a href=\"/\">All runs</a></p>"),
            },
        };
        Ok((id, live))
    })
    .await?;
    report_page(&site, ReportKey { file: site.store.experiment_file(&id), run: None }, &live).await
}

async fn run_report(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Answer {
    let looked_at = site.clone();
    let status = blocking(move || Ok::<Status, Problem>(looked_at.find_run(&name)?.status())).await?;
    let file = site.store.experiment_file(&status.run.experiment);
    report_page(&site, ReportKey { file, run: Some(status.run.run.clone()) }, STYLE).await
}

async fn report_page(site: &Arc<Site>, key: ReportKey, top: &str) -> Answer {
    match site.reports.page(&site.store, key).await {
        Ok(page) => Ok(Html(page.with_top(top)).into_response()),
        // The run that is going on is shown also when its report cannot be computed.
        Err(error) => {
            let main = format!(
                "{top}<section><h2>No report</h2><pre class=\"log\">{}</pre></section>",
                escape(&format!("{error:#}"))
            );
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page("No report", HOME_LINK, &main)).into_response())
        }
    }
}

async fn run(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Answer {
    blocking(move || {
        let follower = site.find_run(&name)?;
        let status = follower.status();
        let run = &status.run;
        let mut facts =
            format!("<dl><dt>Started</dt><dd>{}</dd><dt>Name</dt><dd>{}</dd>", escape(&run.started), escape(&run.run));
        if !run.overrides.is_empty() {
            _ = write!(facts, "<dt>Changed keys</dt><dd>{}</dd>", escape(&run.overrides.join("; ")));
        }
        if let Some(headline) = &run.headline {
            _ = write!(facts, "<dt>First result</dt><dd>{}</dd>", escape(&headline.to_string()));
        }
        facts.push_str("</dl>");
        let title = format!("{}, run {}", run.experiment.name, run.number);
        let main = format!("{}<section><h2>About</h2>{facts}</section>", site.live_part(&follower));
        Ok(page(&title, HOME_LINK, &main))
    })
    .await
}

async fn run_events(State(site): State<Arc<Site>>, Path(name): Path<String>) -> Answer {
    let looked_at = site.clone();
    let status = blocking(move || Ok::<Status, Problem>(looked_at.find_run(&name)?.status())).await?;
    Ok(site.live.response(Topic::Run(status.run.run)))
}

/// The run and the instance of a log, which must exist: the name becomes the name of a file.
async fn find_log(site: &Arc<Site>, run: String, instance: &str) -> Result<Status, Problem> {
    let (site, instance) = (site.clone(), instance.to_string());
    blocking(move || {
        let follower = site.find_run(&run)?;
        if follower.has_instance(&instance) {
            return Ok(follower.status());
        }
        Err(Problem(StatusCode::NOT_FOUND, format!("Run {run} has no instance `{instance}`.")))
    })
    .await
}

async fn log(State(site): State<Arc<Site>>, Path((run, instance)): Path<(String, String)>) -> Answer {
    let status = find_log(&site, run, &instance).await?;
    blocking(move || {
        let run = &status.run.run;
        let events = match status.state {
            RunPhase::Running => format!(" data-events=\"{}/events\"", fragments::log_address(run, &instance)),
            _ => String::new(),
        };
        let main = format!(
            "{STYLE}<section id=\"live\"{events}><p><a href=\"/runs/{}\">Run {}</a></p><div data-part=\"log\" class=\"whole\">{}</div></section>",
            encode(run),
            status.run.number,
            fragments::log(&site.store, run, &instance)
        );
        Ok(page(&format!("Log of {instance}"), HOME_LINK, &main))
    })
    .await
}

async fn log_events(State(site): State<Arc<Site>>, Path((run, instance)): Path<(String, String)>) -> Answer {
    let status = find_log(&site, run, &instance).await?;
    Ok(site.live.response(Topic::Log { run: status.run.run, instance }))
}

#[derive(Deserialize)]
struct InstanceQuery {
    instance: Option<String>,
}

/// A plain answer for the page's script.
fn plain(status: StatusCode, text: String) -> Response {
    (status, text).into_response()
}

async fn stop(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
    Query(InstanceQuery { instance }): Query<InstanceQuery>,
) -> Response {
    blocking(move || {
        let run = match site.find_run(&name) {
            Ok(follower) => follower.status().run.run,
            Err(Problem(status, text)) => return plain(status, text),
        };
        let targets: Vec<String> = instance.iter().cloned().collect();
        match request_stop(&site.store, &run, &targets) {
            Ok(_) => {
                let what = instance.map_or_else(|| "the run".to_string(), |name| format!("`{name}`"));
                plain(StatusCode::OK, format!("{what} stops; work that can be resumed is kept"))
            }
            Err(error) => plain(StatusCode::CONFLICT, format!("{error:#}")),
        }
    })
    .await
}

async fn retry(
    State(site): State<Arc<Site>>,
    Path(name): Path<String>,
    Query(InstanceQuery { instance }): Query<InstanceQuery>,
) -> Response {
    blocking(move || {
        let follower = match site.find_run(&name) {
            Ok(follower) => follower,
            Err(Problem(status, text)) => return plain(status, text),
        };
        if let Some(instance) = instance.as_ref().filter(|instance| !follower.has_instance(instance)) {
            return plain(StatusCode::NOT_FOUND, format!("the run has no instance `{instance}`"));
        }
        match site.retries.start(&follower.status().run, instance.as_deref()) {
            Ok(run) => ([("location", format!("/runs/{}", encode(&run)))], "started").into_response(),
            Err(error) => plain(StatusCode::CONFLICT, format!("{error:#}")),
        }
    })
    .await
}
