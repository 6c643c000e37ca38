//! Servers that do not take a list of objects to remove, or not all of it.

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

type Noted = Arc<Mutex<Vec<String>>>;

/// A server that answers the removal of a list with `list`, and any other request with success. Notes methods and paths.
async fn server(list: (u16, &'static str)) -> (S3Store, Noted) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bucket = format!("http://{}/b", listener.local_addr().unwrap());
    let noted = Noted::default();
    let notes = Arc::clone(&noted);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, list, Arc::clone(&notes)));
        }
    });
    (S3Store::open(&config(bucket)).await.unwrap(), noted)
}

async fn answer(mut stream: TcpStream, list: (u16, &'static str), noted: Noted) {
    let head = read_request(&mut stream).await;
    let mut words = head.split_whitespace().map(str::to_owned);
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let path = target.split('?').next().unwrap().to_owned();
    let (status, body) = if method == "POST" { list } else { (204, "") };
    noted.lock().push(format!("{method} {path}"));
    let length = body.len();
    let head = format!("HTTP/1.1 {status} As told\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(head.as_bytes()).await.unwrap();
}

/// The head of a request, whose body is read too.
async fn read_request(stream: &mut TcpStream) -> String {
    let (mut read, mut end) = (Vec::new(), None);
    loop {
        let found = read.windows(4).position(|window| window == b"\r\n\r\n");
        if let (None, Some(at)) = (end, found) {
            let head = String::from_utf8_lossy(&read[..at]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            end = Some(at + 4 + length);
        }
        if end.is_some_and(|end| read.len() >= end) {
            return String::from_utf8_lossy(&read).into_owned();
        }
        assert!(stream.read_buf(&mut read).await.unwrap() > 0, "a whole request");
    }
}

fn names() -> Vec<String> {
    ["one", "two"].map(str::to_owned).to_vec()
}

fn sorted(noted: &Noted) -> Vec<String> {
    let mut noted = std::mem::take(&mut *noted.lock());
    noted.sort_unstable();
    noted
}

#[tokio::test]
async fn who_takes_no_lists_is_asked_once() {
    let refusal = "<Error><Code>NotImplemented</Code><Message>no lists</Message></Error>";
    let (store, noted) = server((501, refusal)).await;
    store.delete_many(&names()).await.unwrap();
    assert_eq!(sorted(&noted), ["DELETE /b/one", "DELETE /b/two", "POST /b/"]);
    store.delete_many(&names()).await.unwrap();
    assert_eq!(sorted(&noted), ["DELETE /b/one", "DELETE /b/two"]);
}

#[tokio::test]
async fn what_a_list_leaves_is_removed_by_itself() {
    let partly = "<DeleteResult><Error><Key>two</Key><Code>InternalError</Code><Message>not now</Message></Error></DeleteResult>";
    let (store, noted) = server((200, partly)).await;
    store.delete_many(&names()).await.unwrap();
    assert_eq!(sorted(&noted), ["DELETE /b/two", "POST /b/"]);
}

#[tokio::test]
async fn a_passing_failure_is_one_of_the_whole_list() {
    let (store, noted) = server((503, "<Error><Code>SlowDown</Code></Error>")).await;
    let error = store.delete_many(&names()).await.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    assert_eq!(sorted(&noted), ["POST /b/"]);
}
