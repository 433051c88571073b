//! `[admin]`, and tokens wherever they are.

use std::net::SocketAddr;

use super::Check;
use crate::config::AdminConfig;
use crate::config::tokens::Place;

impl Check<'_, '_> {
    pub(super) fn admin(&mut self, admin: &AdminConfig) {
        if admin.token_env.is_some() && admin.token_file.is_some() {
            let problem = "the token is given twice, by `token_env` and by `token_file`";
            self.fault(&["admin", "token_file"], problem, "leave one of the two out");
        }
        self.variable(&["admin", "token_env"], admin.token_env.as_deref(), "token");
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
            let [env_key, file_key] = [format!("{role}_env"), format!("{role}_file")];
            let [env_path, file_path] = [&env_key, &file_key].map(|key| [section, &[key.as_str()]].concat());
            if env.is_some() && file.is_some() {
                let problem = format!("the token is given twice, by `{env_key}` and by `{file_key}`");
                self.fault(&file_path, problem, "leave one of the two out");
            }
            self.variable(&env_path, env.as_deref(), "token");
            if is_open && (env.is_some() || file.is_some()) {
                let path = if env.is_some() { &env_path } else { &file_path };
                let problem = "means nothing while everybody may do everything";
                self.fault(path, problem, "set admin.token_env or admin.token_file, the token of those who may");
            }
        }
    }
}
