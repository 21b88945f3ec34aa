//! A policy that allows everything, for tests. What no guest does for its host stays so, and what is
//! asked of what isn't there is denied as ever; all else passes as it came, and counts as bound.

use super::container::{check_disk, check_name};
use super::{Approved, Gate, GrantedRoot, Output, files, pod, set_up};
use crate::{CreateContainer, Denial, Request};

impl Gate {
    pub(super) fn permit(&mut self, request: Request) -> Result<Approved, Denial> {
        match request {
            Request::SetUp(asked) => {
                set_up::check_bounds(&asked)?;
                return Ok(self.note_set_up(asked));
            }
            Request::CreateContainer(asked) => return self.permit_container(*asked),
            Request::StartContainer { container } => return self.start(container),
            Request::Exec(asked) => {
                self.check_new_process(&asked)?;
                self.note_exec(&asked);
                let bound = (0..asked.configuration.env.len()).collect();
                return Ok(Approved {
                    bound,
                    ..shown(Request::Exec(asked))
                });
            }
            Request::RefreshVolume { share } => return super::no_shares(&share),
            Request::AdjustClock { offset, step } => pod::check_clock(offset, step)?,
            Request::PutFiles { ref files, .. } => {
                let single = matches!(files.as_slice(), [only] if only.path.is_empty());
                files::check_paths(files, single)?;
                let bound = (0..files.len()).collect();
                return Ok(Approved {
                    bound,
                    ..Approved::plain(request)
                });
            }
            Request::Wait {
                ref container,
                ref process,
            }
            | Request::CloseStdin {
                ref container,
                ref process,
            }
            | Request::Resize {
                ref container,
                ref process,
                ..
            } => self.known_process(container, process)?,
            Request::DeleteContainer { ref container }
            | Request::Stats { ref container }
            | Request::Processes { ref container }
            | Request::OutOfMemory { ref container }
            | Request::Pause { ref container }
            | Request::Resume { ref container }
            | Request::Update { ref container, .. } => drop(self.state.known(container)?),
            Request::Signal(ref signal) => drop(self.state.known(&signal.container)?),
            Request::KernelLog | Request::PowerOff | Request::Forward { .. } => {}
        }
        Ok(Approved::plain(request))
    }

    fn permit_container(&mut self, asked: CreateContainer) -> Result<Approved, Denial> {
        check_name("container", &asked.container)?;
        self.check_new(&asked.container)?;
        let disk = check_disk(&asked.root)?;
        let (container, name) = (asked.container.clone(), asked.name.clone());
        let terminal = asked.configuration.process.terminal;
        self.state.add(container, name, disk.device, terminal);
        Ok(Approved {
            bound: (0..asked.configuration.process.env.len()).collect(),
            root: Some(GrantedRoot { layers: None }),
            ..shown(Request::CreateContainer(Box::new(asked)))
        })
    }
}

fn shown(request: Request) -> Approved {
    Approved {
        output: Output::Shown,
        ..Approved::plain(request)
    }
}
