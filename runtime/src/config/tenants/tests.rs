use super::*;
use crate::config::ConfigErrors;

const HANDLER: &str = "component = \"h.wasm\"\n";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(None, text, [])
}

fn faults(text: &str) -> Vec<String> {
    parse(text).err().map_or_else(Vec::new, |errors| errors.0.iter().map(ToString::to_string).collect())
}

fn acme(text: &str) -> String {
    format!("[tenants.acme]\n{text}\n[tenants.acme.handlers.pay]\n{HANDLER}streams = [\"orders\"]\n")
}

#[test]
fn a_tenant_has_its_own_and_the_worker_sections() {
    let text = format!(
        "[worker]\nthreads = 3\n[limits]\npublishes = 7\n[handlers.own]\n{HANDLER}streams = [\"s\"]\n{}\
         [tenants.acme.limits]\nmemory = \"1 MiB\"\n[tenants.acme.streams.orders]\nmax_length = 5\n",
        acme("weight = 4")
    );
    let config = parse(&text).unwrap();
    let (default, acme) = (config.of_tenant("default").unwrap(), config.of_tenant("acme").unwrap());
    assert_eq!(default.handlers.keys().collect::<Vec<_>>(), ["own"]);
    assert_eq!(acme.handlers.keys().collect::<Vec<_>>(), ["pay"]);
    assert_eq!((acme.worker.threads, acme.limits.publishes, acme.limits.memory), (3, 7, bytesize::ByteSize::mib(1)));
    assert_eq!(default.limits.memory, Config::default().limits.memory);
    assert_eq!((acme.tenant.name.as_str(), acme.tenant.weight, acme.tenant.namespace.prefix()), ("acme", 4, "acme:"));
    assert_eq!(acme.streams["orders"].max_length, Some(5));
    assert!(acme.tenant.quotas.is_some() && default.tenant.quotas.is_none());
    assert!(config.of_tenant("other").is_none());
    assert_eq!(config.of_all_tenants().map(|config| config.tenant.name).collect::<Vec<_>>(), ["default", "acme"]);
}

#[test]
fn without_tenants_everything_is_as_it_stands() {
    let config = parse(&format!("[handlers.own]\n{HANDLER}streams = [\"a/b\"]\n")).unwrap();
    assert_eq!(config.of_tenant("default"), Some(config.clone()));
    assert_eq!(&*config.of_tenant("default").unwrap().tenant.namespace.stream("a/b"), "a/b");
}

#[test]
fn streams_of_others_are_shared_by_both_sides_or_not_at_all() {
    let wants = "[tenants.beta.handlers.copy]\ncomponent = \"c.wasm\"\nstreams = [\"acme/orders\"]\n";
    let text = format!("{}{wants}", acme(""));
    let expected = "tenants.beta.handlers.copy.streams[0]: `acme/orders` is a stream of the tenant acme, which does not \
         share it; acme must add readers = [\"beta\"] to [tenants.acme.streams.orders]";
    assert_eq!(faults(&text), [expected]);
    let publishing = format!("{text}[tenants.acme.streams.orders]\npublishers = [\"beta\"]\n");
    assert_eq!(faults(&publishing), [expected], "who may publish may not read");
    let shared =
        parse(&format!("{text}[tenants.acme.streams.orders]\nreaders = [\"beta\"]\nmax_length = 3\n")).unwrap();
    let beta = shared.of_tenant("beta").unwrap();
    assert_eq!(&*beta.tenant.namespace.stream("acme/orders"), "acme:orders");
    assert_eq!(beta.streams["acme/orders"].max_length, None, "how long entries are kept is the owner's matter");
    assert_eq!(&*beta.tenant.namespace.source("acme/orders", "copy").group, "beta/copy");
}

#[test]
fn the_default_tenant_shares_as_others_do_and_cannot_reach_round_it() {
    let to_default = acme("").replace("\"orders\"", "\"default/orders\"");
    assert!(faults(&to_default)[0].ends_with("default must add readers = [\"acme\"] to [streams.orders]"));
    assert_eq!(faults(&format!("{to_default}[streams.orders]\nreaders = [\"acme\"]\n")), [""; 0]);
    let by_key = format!("{}[handlers.spy]\n{HANDLER}streams = [\"acme:orders\"]\n", acme(""));
    let expected = "handlers.spy.streams[0]: `acme:orders` is a key of the tenant acme; write it as `acme/orders`, which \
         acme must share";
    assert_eq!(faults(&by_key), [expected]);
    let handler = format!("[handlers.own]\n{HANDLER}streams = [\"s\"]\n");
    for (text, place) in [
        ("dead_letter = \"acme:dead\"\n", "handlers.own.dead_letter"),
        ("[streams.\"acme:orders\"]\nmax_length = 1\n", "streams.\"acme:orders\""),
        ("[intake.i]\nchannel = \"c\"\nstream = \"acme:orders\"\n", "intake.i.stream"),
    ] {
        let found = faults(&format!("{handler}{text}{}", acme("")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(place) && found[0].contains("is a key of the tenant acme"), "{found:?}");
    }
    let dead = acme("").replace("[\"orders\"]\n", "[\"orders\"]\ndead_letter = \"default/dead\"\n");
    assert!(faults(&dead)[0].starts_with("tenants.acme.handlers.pay.dead_letter: "), "{:?}", faults(&dead));
}

#[test]
fn prefixes_never_meet() {
    for (prefix, is_fine) in [
        ("a", true),
        ("a.b_c-D:1:", true),
        ("", false),
        ("a*", false),
        ("a{b}", false),
        ("a[b]", false),
        ("a b", false),
        ("w\u{e4}", false),
        ("wasmill:x", false),
        ("wasm", false),
        (&"a".repeat(64), true),
        (&"a".repeat(65), false),
    ] {
        let found = faults(&acme(&format!("prefix = {prefix:?}")));
        assert_eq!(found.is_empty(), is_fine, "{prefix:?}: {found:?}");
    }
    let both = format!("{}[tenants.beta]\nprefix = \"acme:b:\"\n", acme(""));
    let expected = "tenants.beta.prefix: `acme:b:` meets `acme:`, the prefix of tenants.acme; let no prefix begin with \
         another one";
    assert_eq!(faults(&both), [expected]);
}

#[test]
fn the_bounds_of_a_tenant_are_checked() {
    for (text, is_fine) in [
        ("weight = 1", true),
        ("weight = 100", true),
        ("weight = 0", false),
        ("weight = 101", false),
        ("quotas = { concurrency = 0 }", false),
        ("quotas = { events_in = 0 }", false),
        ("quotas = { events_out = 1, dead_letters = 1, deploys_per_minute = 1, cpu_per_minute = \"1ms\" }", true),
        ("quotas = { cpu_per_minute = \"0s\" }", false),
        ("redis = { password_env = \"X\" }", false),
        ("redis = { username = \"u\", password_env = \"X\" }", true),
        ("redis = { username = \"u\", password_env = \"X\", password_file = \"f\" }", false),
        ("tokens = { view_env = \"V\", operate_file = \"o\", deploy_env = \"D\" }", true),
        ("tokens = { view_env = \"V\", view_file = \"v\" }", false),
        ("limits = { memory = \"1 B\" }", false),
    ] {
        // Tokens of tenants mean something beside the one for everything.
        let found = faults(&format!("[admin]\ntoken_env = \"T\"\n{}", acme(text)));
        assert_eq!(found.is_empty(), is_fine, "{text}: {found:?}");
    }
    assert!(faults("[tenants.default]\nweight = 1\n")[0].contains("belongs to `default`"));
    assert!(faults("[tenants.\"A b\"]\nweight = 1\n")[0].contains("cannot be the name of a tenant"));
    assert!(faults("[tenants.wasmill]\nweight = 1\n")[0].contains("would be those of wasmill itself"));
    assert_eq!(faults("[tenants.wasmill]\nprefix = \"mill:\"\n"), [""; 0]);
}

mod files {
    use std::path::Path;

    use super::*;

    fn load(files: &[(&str, &str)], main: &str) -> Result<Config, ConfigErrors> {
        let folder = tempfile::tempdir().unwrap();
        let tenants = folder.path().join("tenants.d");
        std::fs::create_dir(&tenants).unwrap();
        for (name, text) in files {
            std::fs::write(tenants.join(name), text).unwrap();
        }
        let file = folder.path().join("wasmill.toml");
        std::fs::write(&file, format!("tenants_dir = \"tenants.d\"\n{main}")).unwrap();
        let config = Config::load(&file, [])?;
        let component = config.tenants.values().flat_map(|tenant| tenant.handlers.values()).next();
        if let Some(handler) = component {
            assert!(handler.component.starts_with(&tenants), "paths start at the file's own directory");
        }
        Ok(config)
    }

    fn faulty(config: &Config) -> Vec<(&str, String)> {
        config.faulty_tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.faults.to_string())).collect()
    }

    const PAY: &str = "[handlers.pay]\ncomponent = \"pay.wasm\"\nstreams = [\"orders\"]\n";

    #[test]
    fn a_file_says_what_a_section_would() {
        let config = load(&[("acme.toml", &format!("weight = 2\n{PAY}")), ("notes.txt", "x"), (".beta.toml", "x")], "");
        let config = config.unwrap();
        assert_eq!(config.tenants.keys().collect::<Vec<_>>(), ["acme"]);
        assert_eq!((config.tenants["acme"].weight, faulty(&config)), (2, vec![]));
    }

    #[test]
    fn a_fault_concerns_its_tenant_alone_and_is_told_with_its_place() {
        let files =
            [("acme.toml", "weight = 2\nwieght = 3\n"), ("beta.toml", PAY), ("Gamma.toml", PAY), ("delta.toml", "[")];
        let config = load(&files, "").unwrap();
        assert_eq!(config.tenants.keys().collect::<Vec<_>>(), ["beta"]);
        let faulty = faulty(&config);
        assert_eq!(faulty.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["Gamma", "acme", "delta"]);
        assert!(faulty[1].1.contains("acme.toml:2:1: wieght: unknown field; did you mean `weight`?"), "{faulty:?}");
    }

    #[test]
    fn what_a_file_wants_of_others_is_its_matter_too() {
        let wants = "[handlers.copy]\ncomponent = \"c.wasm\"\nstreams = [\"acme/orders\"]\n";
        let files = [("acme.toml", PAY), ("beta.toml", wants), ("gamma.toml", "prefix = \"acme:x\"")];
        let config = load(&files, "").unwrap();
        assert_eq!(config.tenants.keys().collect::<Vec<_>>(), ["acme"]);
        let faulty = faulty(&config);
        assert!(faulty[0].1.contains("beta.toml:3:12: handlers.copy.streams[0]"), "{faulty:?}");
        assert!(faulty[1].1.contains("meets `acme:`"), "{faulty:?}");
    }

    #[test]
    fn a_file_cannot_take_the_keys_of_another_tenant_nor_put_it_out() {
        let takes = |prefix: &str| format!("prefix = {prefix:?}\n{PAY}");
        let names = |config: &Config| config.tenants.keys().cloned().collect::<Vec<_>>();
        let config = load(&[("acme.toml", &takes("beta:")), ("beta.toml", PAY)], "").unwrap();
        assert_eq!(names(&config), ["beta"], "{:?}", faulty(&config));
        let config = load(&[("acme.toml", &takes("beta:")), ("beta.toml", "wieght = 1")], "").unwrap();
        assert_eq!(names(&config), [""; 0], "its keys are there while its file is at fault");
        let config = load(&[("acme.toml", &takes("shop:")), ("beta.toml", &takes("shop:"))], "").unwrap();
        assert_eq!(names(&config), [""; 0], "nobody knows whose they are");
        let own = "[handlers.own]\ncomponent = \"o.wasm\"\nstreams = [\"orders\"]\n";
        let config = load(&[("acme.toml", &takes("or")), ("beta.toml", &takes("own."))], own).unwrap();
        assert_eq!(names(&config), [""; 0], "{:?}", faulty(&config));
        let text = faulty(&config).remove(0).1;
        assert!(text.contains("`or` is how `orders` begins, a stream of the tenant default"), "{text}");
    }

    #[test]
    fn who_wants_something_of_a_faulty_tenant_is_not_taken_for_the_owner_of_a_stream_of_that_name() {
        let wants = "[handlers.copy]\ncomponent = \"c.wasm\"\nstreams = [\"acme/orders\"]\n";
        let config = load(&[("acme.toml", "wieght = 1"), ("beta.toml", wants)], "").unwrap();
        assert!(config.tenants.is_empty());
        assert!(faulty(&config)[1].1.contains("whose file cannot be used"), "{:?}", faulty(&config));
    }

    #[test]
    fn the_keys_of_a_faulty_tenant_are_not_those_of_the_default_one() {
        let mut config = load(&[("acme.toml", "wieght = 3")], "").unwrap();
        config.unserved_prefixes.push("b:".to_owned());
        let default = config.of_tenant("default").unwrap().tenant.namespace;
        assert_eq!(["acme:orders", "b:orders", "orders"].map(|name| default.is_own(name)), [false, false, true]);
    }

    #[test]
    fn a_tenant_stands_in_one_place() {
        let config = load(&[("acme.toml", "weight = 3")], "[tenants.acme]\nweight = 2\n").unwrap();
        assert_eq!(config.tenants["acme"].weight, 2);
        assert!(faulty(&config)[0].1.contains("stands in the configuration file as well"));
    }

    #[test]
    fn the_variables_of_a_tenant_file_are_not_those_of_the_worker() {
        let config = load(&[("acme.toml", "[tokens]\nview_env = \"WASMILL_LIMITS__MEMORY\"\n")], "").unwrap();
        assert!(faulty(&config)[0].1.contains("names the environment variable"), "{:?}", faulty(&config));
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let found = Config::parse(Some(Path::new("x.toml")), "tenants_dir = \"/nowhere\"\n", []).unwrap_err();
        assert!(found.to_string().starts_with("x.toml: tenants_dir: `/nowhere` cannot be read"), "{found}");
    }
}
