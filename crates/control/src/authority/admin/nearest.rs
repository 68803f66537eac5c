//! What somebody may have meant who mistyped a name.

/// As many are told.
const TOLD: usize = 3;

/// The names that differ from `wanted` by little, the nearest first: a letter or two, or where one begins with the other.
pub(super) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let limit = (wanted.len() / 3).clamp(1, 3);
    let mut near: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let distance = strsim::osa_distance(wanted, name);
            let part = wanted.len() >= 3 && (name.starts_with(wanted) || wanted.starts_with(name));
            (distance <= limit || part).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.into_iter().take(TOLD).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_wrong_missing_or_too_much_is_seen_through() {
        let names = ["db-1", "db-2", "web", "gateway"];
        let near = |wanted| nearest(wanted, names.into_iter());
        assert_eq!(near("db-3"), ["db-1", "db-2"]);
        assert_eq!(near("gatway"), ["gateway"]);
        assert_eq!(near("gate"), ["gateway"]);
        assert_eq!(near("weeb"), ["web"]);
        assert!(near("phone").is_empty());
    }
}
