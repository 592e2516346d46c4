//! Redis: many connections, pipelining, and a server that speaks unasked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use isthmus_lab::http;
use isthmus_lab::trouble::{During, Result, ensure};

use super::{Scene, succeed};

const PORT: u16 = 6379;
const MESSAGES: usize = 1000;

pub(crate) fn bench(scene: &Scene) -> Result<String> {
    let address = scene.local(PORT)?.ip().to_string();
    let mut last = String::new();
    for pipelined in ["1", "16"] {
        let mut command = Command::new("redis-benchmark");
        command
            .args(["-h", &address, "-p", &PORT.to_string()])
            .args(["-n", "20000", "-c", "50", "-P", pipelined])
            .args(["-d", "1000", "-t", "set,get,lpush", "--csv"]);
        let said = succeed(&mut command)?;
        for test in ["SET", "GET", "LPUSH"] {
            ensure(said.out.contains(&format!("\"{test}\"")), || {
                format!("{test} is missing in {said:?}")
            })?;
        }
        last.clone_from(&said.out);
    }
    let rate = last
        .lines()
        .find_map(|line| line.strip_prefix("\"GET\",\""));
    let rate = rate.and_then(|rest| rest.split('"').next()).unwrap_or("?");
    Ok(format!("50 connections, 16 deep: {rate} GETs a second"))
}

pub(crate) fn publish(scene: &Scene) -> Result<String> {
    let address = scene.local(PORT)?;
    let during = || "a conversation with redis".to_owned();
    let mut listening = BufReader::new(http::connect(address)?);
    let mut speaking = BufReader::new(http::connect(address)?);
    let mut line = String::new();
    let mut read = |from: &mut BufReader<_>| -> Result<String> {
        line.clear();
        from.read_line(&mut line).during(during)?;
        Ok(line.trim_end().to_owned())
    };
    listening
        .get_mut()
        .write_all(b"SUBSCRIBE news\r\n")
        .during(during)?;
    // An array of three: the word, the channel, how many there are now.
    for expect in ["*3", "$9", "subscribe", "$4", "news", ":1"] {
        let said = read(&mut listening)?;
        ensure(said == expect, || format!("{said} instead of {expect}"))?;
    }
    for number in 0..MESSAGES {
        let said = format!("PUBLISH news {number}\r\n");
        speaking
            .get_mut()
            .write_all(said.as_bytes())
            .during(during)?;
    }
    for number in 0..MESSAGES {
        let heard = read(&mut speaking)?;
        ensure(heard == ":1", || format!("heard by {heard}"))?;
        let text = number.to_string();
        let length = format!("${}", text.len());
        for expect in ["*3", "$7", "message", "$4", "news", &length, &text] {
            let said = read(&mut listening)?;
            ensure(said == expect, || format!("{said} instead of {expect}"))?;
        }
    }
    Ok(format!("{MESSAGES} messages, in order"))
}
