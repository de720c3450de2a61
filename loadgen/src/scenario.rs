//! A scenario: a load and the phases it goes through, from a file or from the flags of a subcommand.

use std::path::Path;

use serde::Deserialize;

use crate::cli::{
    ChatArgs, HoldArgs, LoadArgs, PresenceArgs, PublishArgs, PublishBy, RampArgs, SlowArgs, SoakArgs,
    StormArgs,
};
use crate::plan::Plan;
use crate::report::PhaseReport;
use crate::run::chat::{ChatPhase, chat};
use crate::run::fanout::{Fanout, fanout};
use crate::run::idle::{HoldDemands, hold, ramp};
use crate::run::presence::{PresencePhase, presence};
use crate::run::slow::{Slow, slow};
use crate::run::soak::{Soak, soak};
use crate::run::storm::{Storm, storm};
use crate::run::{Conductor, RunError};
use crate::target::{self, PlanError};

/// A whole scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Connections and server.
    #[serde(default)]
    pub load: LoadArgs,
    /// The phases, in order.
    #[serde(rename = "phase")]
    pub phases: Vec<Phase>,
    /// Conditions on the report.
    #[serde(default, rename = "assert")]
    pub asserts: Vec<String>,
}

/// A phase with a name.
#[derive(Debug, Clone, Deserialize)]
pub struct Phase {
    /// What it is called in the report; by default as its kind.
    pub name: Option<String>,
    /// What is done.
    #[serde(flatten)]
    pub step: Step,
}

/// What is done in a phase.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(clippy::large_enum_variant, reason = "there are a few of them in a process")]
pub enum Step {
    /// Bring connections up.
    Ramp(RampArgs),
    /// Keep them.
    Hold(HoldArgs),
    /// Publish.
    Fanout(PublishArgs),
    /// Lose and regain connections.
    Storm(StormArgs),
    /// Talk.
    Chat(ChatArgs),
    /// Join and leave.
    Presence(PresenceArgs),
    /// Publish to slow readers.
    Slow(SlowArgs),
    /// Publish for long.
    Soak(SoakArgs),
}

/// A scenario cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// The file is not a scenario.
    #[error("{0}: {1}")]
    Form(String, toml::de::Error),
}

/// A step cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Its options do not fit the load.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// It failed.
    #[error(transparent)]
    Run(#[from] RunError),
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ScenarioError`], for the user to read.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let name = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ScenarioError::File(name(), error))?;
        toml::from_str(&text).map_err(|error| ScenarioError::Form(name(), error))
    }

    /// A ramp and one more phase.
    #[must_use]
    pub fn single(load: &LoadArgs, step: Step) -> Self {
        let phases = [Step::Ramp(RampArgs::default()), step].map(|step| Phase { name: None, step });
        Self { load: load.clone(), phases: phases.into(), asserts: Vec::new() }
    }

    /// The plan of all phases together.
    ///
    /// # Errors
    /// [`PlanError`], for the user to read.
    pub fn plan(&self) -> Result<Plan, PlanError> {
        let ramped = self.phases.iter().filter_map(|phase| match &phase.step {
            Step::Ramp(ramp) => ramp.connections,
            _ => None,
        });
        let connections = ramped.max().unwrap_or(0).max(self.load.connections);
        if !matches!(self.phases.first().map(|phase| &phase.step), Some(Step::Ramp(_))) {
            return Err(PlanError::NoRamp);
        }
        let mut plan = target::plan(&LoadArgs { connections, ..self.load.clone() })?;
        plan.track_positions = self.phases.iter().any(|phase| match &phase.step {
            Step::Storm(storm) => !storm.no_recover,
            Step::Soak(soak) => !soak.storm.no_recover,
            _ => false,
        });
        // What does not fit is better known before the connections are up than after.
        self.phases.iter().try_for_each(|phase| phase.step.check(&plan))?;
        Ok(plan)
    }
}

impl Phase {
    /// Does it.
    ///
    /// # Errors
    /// [`StepError`] where it cannot be done.
    pub fn run(
        &self,
        conductor: &mut Conductor,
        load: &LoadArgs,
        reports: &mut Vec<PhaseReport>,
    ) -> Result<(), StepError> {
        let name = self.name.as_deref().unwrap_or(self.step.kind());
        let report = match &self.step {
            Step::Ramp(args) => {
                let connections = args.connections.unwrap_or(load.connections);
                ramp(conductor, name, connections, args.rate.unwrap_or(load.rate))?
            }
            Step::Hold(args) => {
                let (duration, require_ping) = (args.hold, args.require_ping);
                hold(conductor, name, &HoldDemands { duration, require_ping, require_all: true })?
            }
            Step::Fanout(args) => {
                demanding_all(fanout(conductor, name, &plan_fanout(args, &conductor.plan)?)?)
            }
            Step::Storm(args) => storm(conductor, name, &plan_storm(args, &conductor.plan)?)?,
            Step::Chat(args) => demanding_all(chat(conductor, name, &plan_chat(args))?),
            Step::Presence(args) => {
                presence(conductor, name, &PresencePhase { rate: args.churn_rate, duration: args.duration })?
            }
            Step::Slow(args) => {
                let how = plan_slow(args, &conductor.plan)?;
                let [during, after] = slow(conductor, name, &how)?;
                reports.push(during);
                after
            }
            Step::Soak(args) => soak(conductor, name, &plan_soak(args, &conductor.plan)?)?,
        };
        reports.push(report);
        Ok(())
    }
}

/// Nobody is to lose the connection while messages flow: what was meant for it is not awaited any more.
fn demanding_all(mut report: PhaseReport) -> PhaseReport {
    let lost = report.metrics.get("lost_connections").copied().unwrap_or(0.0);
    if lost > 0.0 {
        report.broken.push(format!("{lost} connections were lost"));
    }
    report
}

impl Step {
    /// Whether its options fit the plan.
    fn check(&self, plan: &Plan) -> Result<(), PlanError> {
        match self {
            Self::Fanout(args) => plan_fanout(args, plan).map(drop),
            Self::Storm(args) => plan_storm(args, plan).map(drop),
            Self::Slow(args) => plan_slow(args, plan).map(drop),
            Self::Soak(args) => plan_soak(args, plan).map(drop),
            Self::Ramp(_) | Self::Hold(_) | Self::Chat(_) | Self::Presence(_) => Ok(()),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Ramp(_) => "ramp",
            Self::Hold(_) => "hold",
            Self::Fanout(_) => "fanout",
            Self::Storm(_) => "storm",
            Self::Chat(_) => "chat",
            Self::Presence(_) => "presence",
            Self::Slow(_) => "slow",
            Self::Soak(_) => "soak",
        }
    }
}

fn plan_fanout(args: &PublishArgs, plan: &Plan) -> Result<Fanout, PlanError> {
    Ok(Fanout { publishing: target::publishing(args, plan)?, drain: args.drain })
}

fn plan_storm(args: &StormArgs, plan: &Plan) -> Result<Storm, PlanError> {
    let publishing = match args.publish.publish_by {
        PublishBy::Nothing => None,
        _ => Some(target::publishing(&args.publish, plan)?),
    };
    Ok(Storm {
        clients: args.clients.of(plan.connections),
        close: args.close,
        jitter: args.jitter,
        within: args.within,
        patience: args.patience,
        publishing: publishing.map(|mut publishing| {
            // It goes on until all are back.
            publishing.duration = args.patience + args.within;
            publishing
        }),
        drain: args.publish.drain,
    })
}

fn plan_slow(args: &SlowArgs, plan: &Plan) -> Result<Slow, PlanError> {
    let clients = args.clients.of(plan.connections);
    Ok(Slow { clients, manner: args.manner, fanout: plan_fanout(&args.publish, plan)? })
}

fn plan_soak(args: &SoakArgs, plan: &Plan) -> Result<Soak, PlanError> {
    let mut storm = plan_storm(&args.storm, plan)?;
    let duration = args.storm.publish.duration;
    if let Some(publishing) = &mut storm.publishing {
        publishing.duration = duration;
    }
    Ok(Soak { duration, churn: args.churn_rate, storm })
}

fn plan_chat(args: &ChatArgs) -> ChatPhase {
    ChatPhase { think: args.think, size: args.size, duration: args.duration, drain: args.drain }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_has_the_names_of_the_flags() {
        let scenario: Scenario = toml::from_str(
            r#"
            assert = ["lost==0"]
            [load]
            connections = 100
            channel-template = ["room{i%10}"]
            token-ttl = "1h"
            [[phase]]
            kind = "ramp"
            connections = 50
            [[phase]]
            kind = "hold"
            hold = 5
            require-ping = true
            [[phase]]
            name = "first storm"
            kind = "storm"
            clients = "20%"
            jitter = "sdk"
            publish = { publish-rate = 50.0, publish-by = "client" }
            "#,
        )
        .unwrap();
        let Step::Storm(storm) = &scenario.phases[2].step else { panic!() };
        assert_eq!(storm.publish.publish_by, PublishBy::Client);
        assert_eq!(storm.within, Duration::from_secs(10), "what is not given has its default");
        let Step::Hold(hold) = &scenario.phases[1].step else { panic!() };
        assert!(hold.require_ping && hold.hold == Duration::from_secs(5));
        assert!(scenario.plan().unwrap().track_positions);
    }

    #[test]
    fn the_scenarios_that_come_along_can_be_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut read = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let scenario = Scenario::load(&file.unwrap().path()).unwrap();
            assert!(scenario.phases.len() > 1 && scenario.plan().is_ok());
            for text in &scenario.asserts {
                crate::report::assert::Condition::parse(text).unwrap();
            }
            read += 1;
        }
        assert!(read >= 3);
    }

    #[test]
    fn a_misspelt_name_is_refused() {
        let error = |text: &str| toml::from_str::<Scenario>(text).unwrap_err().to_string();
        assert!(error("phase = []\n[load]\nconection = 1").contains("conection"));
        assert!(error("[[phase]]\nkind = \"hold\"\nholt = 1").contains("holt"));
        assert!(error("[[phase]]\nkind = \"dance\"").contains("dance"));
        let plan = |text: &str| {
            toml::from_str::<Scenario>(text).unwrap().plan().err().map(|error| error.to_string())
        };
        for (text, words) in [
            ("phase = []", "first phase"),
            ("[[phase]]\nkind = \"hold\"", "first phase"),
            ("load = { connections = 0 }\n[[phase]]\nkind = \"ramp\"", "above 0"),
            ("[[phase]]\nkind = \"ramp\"\n[[phase]]\nkind = \"fanout\"", "no channel to publish into"),
            ("load = { channel-template = [\"a{i%5\"] }\n[[phase]]\nkind = \"ramp\"", "without its other"),
        ] {
            assert!(plan(text).is_some_and(|error| error.contains(words)), "{text}");
        }
    }
}
