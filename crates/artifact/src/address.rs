//! Addresses of servers, as far as more than one crate asks about them.

/// Whether an address (`http://host:port/…`) leads to this machine. There no proxy is to be asked, whatever the
/// environment says of proxies: it would look for the server on itself.
#[must_use]
pub fn is_loopback(address: &str) -> bool {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(inner) => inner.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_of_this_machine = |ip: std::net::IpAddr| ip.is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_of_this_machine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_all_its_names() {
        for address in [
            "http://localhost:8000/v1",
            "http://127.0.0.1:1",
            "http://127.1.2.3",
            "http://[::1]:80/x",
        ] {
            assert!(is_loopback(address), "{address}");
        }
        for address in ["https://huggingface.co", "http://localhost.example.org", "http://10.0.0.1"]
        {
            assert!(!is_loopback(address), "{address}");
        }
    }
}
