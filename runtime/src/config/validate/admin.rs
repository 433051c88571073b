//! `[admin]`, and tokens wherever they are.

use std::net::SocketAddr;

use super::Check;
use crate::config::AdminConfig;
use crate::config::tokens::Place;

impl Check<'_, '_> {
    pub(super) fn admin(&mut self, admin: &AdminConfig) {
        self.secret(&["admin"], ("token", "token"), &admin.token_env, &admin.token_file);
        let is_open = admin.token_env.is_none() && admin.token_file.is_none();
        self.tokens(&["admin"], admin.places(), is_open);
        let path = ["admin", "listen"];
        let listen = &admin.listen;
        match listen.parse::<SocketAddr>() {
            _ if listen.is_empty() => {}
            Ok(address) if address.ip().is_loopback() => {}
            Ok(_) if admin.token_env.is_some() || admin.token_file.is_some() => {}
            Ok(_) => {
                let problem = format!("`{listen}` can be reached from other machines, and there is no token");
                self.fault(&path, problem, "use 127.0.0.1 or [::1], or set admin.token_env or admin.token_file");
            }
            Err(_) => {
                let problem = format!("`{listen}` is not an IP address and a port");
                self.fault(&path, problem, "for example \"127.0.0.1:9464\", or \"\" to turn it off");
            }
        }
    }

    /// The tokens of the roles of a tenant. `is_open`: there is no token of everything.
    pub(super) fn tokens(&mut self, section: &[&str], places: [Place<'_>; 3], is_open: bool) {
        for Place { role, env, file } in places {
            self.secret(section, (&role.to_string(), "token"), env, file);
            if is_open && (env.is_some() || file.is_some()) {
                let key = format!("{role}_{}", if env.is_some() { "env" } else { "file" });
                let problem = "means nothing while everybody may do everything";
                self.fault(
                    &[section, &[&key]].concat(),
                    problem,
                    "set admin.token_env or admin.token_file, the token of those who may",
                );
            }
        }
    }
}
