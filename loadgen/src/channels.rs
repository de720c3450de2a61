//! Which channels there are, who is in them, and how they are numbered.
//!
//! Every channel has one number over all templates, which travels in the mark of a message; so a subscriber can tell a
//! message that was meant for somebody else.

use crate::template::{Template, TemplateError, Values};

/// All channels of a run.
#[derive(Debug, Clone)]
pub struct Channels {
    families: Vec<Family>,
    user: Template,
}

/// The channels of one template.
#[derive(Debug, Clone)]
struct Family {
    template: Template,
    /// The number of its first channel.
    base: u32,
    groups: u32,
    /// The server subscribes clients by itself.
    server_side: bool,
}

impl Channels {
    /// The channels that `clients` clients are in. `personal` adds `#user`, which the server subscribes by itself.
    ///
    /// # Errors
    /// [`TemplateError`] for a template that cannot be read.
    pub fn plan(
        templates: &[String],
        user: &str,
        personal: bool,
        clients: u32,
    ) -> Result<Self, TemplateError> {
        let user = Template::parse(user)?;
        let mut families = Vec::new();
        let mut base = 0_u32;
        let own = personal.then(|| "#{user}".to_owned());
        for text in templates.iter().chain(&own) {
            if text.matches('{').count() != text.matches('}').count() {
                return Err(TemplateError::Unbalanced(text.clone()));
            }
            let template = Template::parse(text)?;
            let server_side = own.as_ref() == Some(text);
            let groups = if server_side { user.groups(clients) } else { template.groups(clients) };
            families.push(Family { template, base, groups, server_side });
            base = base.saturating_add(groups);
        }
        Ok(Self { families, user })
    }

    /// The user name of client `number`.
    #[must_use]
    pub fn user(&self, number: u32) -> String {
        self.user.render(&Values { number, ..Values::default() })
    }

    /// The channels that client `number` has to subscribe.
    #[must_use]
    pub fn wanted(&self, number: u32) -> Vec<String> {
        let wanted = self.families.iter().filter(|family| !family.server_side);
        wanted.map(|family| self.render(family, number)).collect()
    }

    /// How many channels each client is in.
    #[must_use]
    pub fn per_client(&self) -> usize {
        self.families.len()
    }

    /// How many of them a client subscribes by itself.
    #[must_use]
    pub fn wanted_per_client(&self) -> usize {
        self.families.iter().filter(|family| !family.server_side).count()
    }

    /// Whether the server is to subscribe every client to its personal channel.
    #[must_use]
    pub fn personal(&self) -> bool {
        self.families.iter().any(|family| family.server_side)
    }

    /// How many channels the first template makes; they are numbered from 0.
    #[must_use]
    pub fn first_count(&self) -> u32 {
        self.families.first().map_or(0, |family| family.groups)
    }

    /// How many channels there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.families.iter().map(|family| family.groups).fold(0, u32::saturating_add)
    }

    /// The name of channel number `channel`.
    #[must_use]
    pub fn name(&self, channel: u32) -> String {
        let family = self.families.iter().rev().find(|family| family.base <= channel);
        family.map_or_else(String::new, |family| {
            self.render(family, self.member(family, channel - family.base))
        })
    }

    /// The number of the `index`th channel of client `number`.
    #[must_use]
    pub fn channel_of(&self, number: u32, index: usize) -> Option<u32> {
        self.families.get(index).map(|family| family.base + self.group(family, number))
    }

    /// The first channel of client `number`, and its seat there: seats of a channel are numbered from 0.
    #[must_use]
    pub fn seat(&self, number: u32) -> (u32, u32) {
        match self.families.first() {
            Some(family) => {
                let template = if family.server_side { &self.user } else { &family.template };
                (family.base + template.group(number), template.seat(number))
            }
            None => (0, 0),
        }
    }

    /// Seats per channel of the first template, with `clients` clients.
    #[must_use]
    pub fn seats(&self, clients: u32) -> u32 {
        let template = self
            .families
            .first()
            .map(|family| if family.server_side { &self.user } else { &family.template });
        template.map_or(1, |template| template.seats(clients))
    }

    /// As which of its channels client `number` knows channel number `channel`; `None` if it is not in it.
    #[must_use]
    pub fn index_of(&self, number: u32, channel: u32) -> Option<usize> {
        self.families.iter().position(|family| {
            (family.base..family.base + family.groups).contains(&channel)
                && family.base + self.group(family, number) == channel
        })
    }

    fn group(&self, family: &Family, number: u32) -> u32 {
        if family.server_side { self.user.group(number) } else { family.template.group(number) }
    }

    fn member(&self, family: &Family, group: u32) -> u32 {
        if family.server_side { self.user.member(group) } else { family.template.member(group) }
    }

    fn render(&self, family: &Family, number: u32) -> String {
        let user = if family.server_side { self.user(number) } else { String::new() };
        family.template.render(&Values { number, user: &user, ..Values::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_members_agree() {
        let templates = ["all".to_owned(), "room{i%3}".to_owned(), "own{i}".to_owned()];
        let channels = Channels::plan(&templates, "u{i}", true, 10).unwrap();
        assert_eq!(channels.count(), 1 + 3 + 10 + 10);
        assert_eq!(channels.wanted(4), ["all", "room1", "own4"]);
        for number in 0..10 {
            for index in 0..channels.per_client() {
                let channel = channels.channel_of(number, index).unwrap();
                assert_eq!(channels.index_of(number, channel), Some(index));
            }
        }
        assert_eq!(channels.name(channels.channel_of(7, 3).unwrap()), "#u7");
        assert_eq!(channels.name(channels.channel_of(8, 1).unwrap()), "room2");
        assert_eq!(channels.index_of(4, 2 + 1), None, "room2 is not client 4's");
    }

    #[test]
    fn no_two_clients_share_a_seat() {
        for template in ["all", "room{i%3}", "room{i/4}", "own{i}"] {
            let channels = Channels::plan(&[template.to_owned()], "u{i}", false, 10).unwrap();
            let seats: std::collections::HashSet<_> = (0..10).map(|number| channels.seat(number)).collect();
            assert_eq!(seats.len(), 10, "{template}");
            assert!(seats.iter().all(|(_, seat)| *seat < channels.seats(10)), "{template}: {seats:?}");
        }
    }
}
