//! What a scenario saw, so that two runs of it can be compared: parts of text lines, without what
//! differs from run to run.

/// What was seen under one handler.
#[derive(Debug, Default)]
pub struct Seen(Vec<Part>);

#[derive(Debug, Default)]
struct Part {
    name: String,
    lines: Vec<String>,
    /// What explains it to a reader, and isn't compared.
    asides: Vec<String>,
}

/// A part in which two runs differ, and both sides of it for a reader.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    pub part: String,
    pub shown: String,
}

impl Seen {
    fn part(&mut self, name: &str) -> &mut Part {
        let at = self.0.iter().position(|part| part.name == name);
        let at = at.unwrap_or_else(|| {
            self.0.push(Part {
                name: name.to_owned(),
                ..Part::default()
            });
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Adds lines to a part, which is made if it isn't there.
    pub fn add(&mut self, part: &str, text: &str) {
        let lines = text.lines().map(str::trim_end);
        let lines = lines.filter(|line| !line.is_empty()).map(str::to_owned);
        self.part(part).lines.extend(lines);
    }

    /// Adds what only explains.
    pub fn aside(&mut self, part: &str, text: &str) {
        self.part(part).asides.push(text.trim().to_owned());
    }

    /// Takes what differs from run to run out of the text.
    pub fn normalise(&mut self, names: &[(String, String)]) {
        for line in self.0.iter_mut().flat_map(|part| &mut part.lines) {
            *line = normal(line, names);
        }
    }

    fn find(&self, name: &str) -> Option<&Part> {
        self.0.iter().find(|part| part.name == name)
    }

    /// Where ours isn't as stock.
    pub fn differences(stock: &Self, ours: &Self) -> Vec<Difference> {
        let mut names: Vec<&str> = stock.0.iter().map(|part| part.name.as_str()).collect();
        let others = ours.0.iter().map(|part| part.name.as_str());
        names.extend(others.filter(|name| stock.find(name).is_none()));
        let difference = |name: &str| {
            let lines = |of: &Self| of.find(name).map(|part| part.lines.clone());
            let same = lines(stock).unwrap_or_default() == lines(ours).unwrap_or_default();
            (!same).then(|| Difference {
                part: name.to_owned(),
                shown: stock.show(name, '-') + &ours.show(name, '+'),
            })
        };
        names.into_iter().filter_map(difference).collect()
    }

    fn show(&self, name: &str, mark: char) -> String {
        let part = self.find(name).into_iter();
        let lines = part.clone().flat_map(|part| &part.lines);
        let asides = part.flat_map(|part| &part.asides);
        let asides = asides.map(|text| format!("\n  {mark}   ({text})"));
        let lines = lines.map(|line| format!("\n  {mark} {line}"));
        lines.chain(asides).collect()
    }
}

/// A line without ids, numbers of processes and of groups of mounts, and paths of one run.
fn normal(line: &str, names: &[(String, String)]) -> String {
    let mut line = line.to_owned();
    for (from, to) in names {
        line = line.replace(from, to);
    }
    let mut out = String::new();
    let mut word = String::new();
    for character in line.chars().chain(['\n']) {
        if character.is_ascii_alphanumeric() {
            word.push(character);
            continue;
        }
        let digits = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit());
        let after = ["master:", "shared:", "propagate_from:", "pid "];
        let number = digits && after.iter().any(|before| out.ends_with(before));
        let process = digits && word.len() > 1 && out.ends_with("/proc/");
        // The capabilities of a process are hexadecimal, too, and shorter.
        if word.len() >= 20 && word.chars().all(|c| c.is_ascii_hexdigit()) {
            out.push_str("ID");
        } else if number || process {
            out.push('N');
        } else {
            out.push_str(&word);
        }
        word.clear();
        out.push(character);
    }
    out.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_is_taken_out() {
        let names = [("/var/tmp/x-1".to_owned(), "AT".to_owned())];
        let line = "/var/tmp/x-1/vol 0123456789abcdef0123 shared:31 of /proc/4711/fd pid 77 of 12";
        let wanted = "AT/vol ID shared:N of /proc/N/fd pid N of 12";
        assert_eq!(normal(line, &names), wanted);
        assert_eq!(normal("/proc/1/mounts", &[]), "/proc/1/mounts");
    }

    #[test]
    fn parts_are_compared_one_by_one() {
        let (mut stock, mut ours) = (Seen::default(), Seen::default());
        stock.add("same", "a\n");
        ours.add("same", "a");
        ours.aside("same", "in other words");
        assert!(Seen::differences(&stock, &ours).is_empty());
        stock.add("other", "b");
        stock.add("gone", "c");
        ours.add("other", "d");
        let found = Seen::differences(&stock, &ours);
        let parts: Vec<&str> = found.iter().map(|found| found.part.as_str()).collect();
        assert_eq!(parts, ["other", "gone"]);
        assert_eq!(found[0].shown, "\n  - b\n  + d");
    }
}
