//! The handler that the benchmark runs: one small piece of JSON work and one follow-up for each event.

mod work;

use guest::{Delivery, Draft, Event, Failure};

guest::export_handler!(handle);

fn handle(event: &Event, _: &Delivery) -> Result<(), Failure> {
    let data = work::work(&event.data).map_err(|e| Failure::Reject(format!("the data is malformed: {e}")))?;
    guest::publish(Draft::json("bench.out", "order_checked", &data))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::work::work;

    #[test]
    fn adds_one_field() -> Result<(), serde_json::Error> {
        let output = work(br#"{"order_id":"o-1","customer":"c-1","amount":5,"note":"a \"b\""}"#)?;
        let expected = br#"{"order_id":"o-1","customer":"c-1","amount":5,"note":"a \"b\"","checked":true}"#;
        assert_eq!(output, expected);
        assert!(work(b"{}").is_err());
        Ok(())
    }
}
