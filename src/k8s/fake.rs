//! An API server for tests: keeps objects of any kind by path, over real HTTP.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::cluster::Cluster;

/// The namespace that tests are in.
const NAMESPACE: &str = "storage";

/// The server; it stops when it is dropped.
pub struct ApiServer {
    address: String,
    state: Arc<State>,
    server: AbortHandle,
}

type Hook = Box<dyn Fn(&Value) + Send + Sync>;

#[derive(Default)]
struct State {
    objects: Mutex<BTreeMap<String, Value>>,
    forbidden: Mutex<Vec<String>>,
    connections: Mutex<Vec<AbortHandle>>,
    made: Mutex<Option<Hook>>,
    removed: Mutex<Option<Hook>>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl ApiServer {
    /// Starts one.
    ///
    /// # Panics
    /// No free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let state = Arc::new(State::default());
        let server = tokio::spawn(serve(listener, Arc::clone(&state))).abort_handle();
        Self { address, state, server }
    }

    /// A cluster with this server.
    ///
    /// # Panics
    /// Never: the address is right.
    pub async fn cluster(&self) -> Cluster {
        let dir = tempfile_like(&self.kubeconfig());
        let cluster = Cluster::connect(Some(&dir)).await.expect("a right file");
        // Read once.
        let _left = std::fs::remove_file(&dir);
        cluster
    }

    /// A kubeconfig that names this server.
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": NAMESPACE}}],
        });
        config.to_string()
    }

    /// Answers nobody any more.
    pub fn stop(&self) {
        self.server.abort();
        for connection in self.state.connections.lock().drain(..) {
            connection.abort();
        }
    }

    /// Calls `made` with each new pod.
    pub fn on_new_pod(&self, made: impl Fn(&Value) + Send + Sync + 'static) {
        *self.state.made.lock() = Some(Box::new(made));
    }

    /// Calls `removed` with each pod that is deleted.
    pub fn on_deleted_pod(&self, removed: impl Fn(&Value) + Send + Sync + 'static) {
        *self.state.removed.lock() = Some(Box::new(removed));
    }

    /// Refuses everything about a resource, such as `pods`.
    pub fn forbid(&self, resource: &str) {
        self.state.forbidden.lock().push(resource.to_owned());
    }

    /// Allows everything again.
    pub fn allow(&self) {
        self.state.forbidden.lock().clear();
    }

    /// Adds an object to a collection, such as `/api/v1/namespaces/x/pods`.
    pub fn add(&self, collection: &str, object: Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.state.objects.lock().insert(format!("{collection}/{name}"), object);
    }

    /// All pods.
    pub fn pods(&self) -> Vec<Value> {
        self.state.of_kind("/pods/")
    }

    /// Sets the status of a pod.
    pub fn set_status(&self, pod: &str, status: Value) {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}");
        if let Some(pod) = self.state.objects.lock().get_mut(&path) {
            pod["status"] = status;
        }
    }

    /// All events.
    pub fn events(&self) -> Vec<Value> {
        self.state.of_kind("/events/")
    }

    /// Removes all events.
    pub fn forget_events(&self) {
        self.state.objects.lock().retain(|path, _| !path.contains("/events/"));
    }
}

fn tempfile_like(text: &str) -> std::path::PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("kubeconfig-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
    let path = std::env::temp_dir().join(name);
    std::fs::write(&path, text).expect("a writable place");
    path
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _peer)) = listener.accept().await else { continue };
        let answering = Arc::clone(&state);
        let connection = tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&answering), request));
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client may leave at any time.
            let _left = served.await;
        });
        state.connections.lock().push(connection.abort_handle());
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let query = uri.query().unwrap_or_default().replace("%3D", "=").replace("%2F", "/").replace("%2C", ",");
    let (status, object) = state.handle(&method, uri.path(), &query, body);
    let mut response = Response::new(Full::new(Bytes::from(object.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static("application/json"));
    Ok(response)
}

fn failure(status: StatusCode, message: &str) -> (StatusCode, Value) {
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let object = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    (status, object)
}

impl State {
    fn of_kind(&self, part: &str) -> Vec<Value> {
        self.objects.lock().iter().filter(|(path, _)| path.contains(part)).map(|(_, object)| object.clone()).collect()
    }

    fn handle(&self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        if self.forbidden.lock().iter().any(|resource| path.split('/').any(|part| part == resource)) {
            return failure(StatusCode::FORBIDDEN, "this is forbidden");
        }
        let is_collection = path.split('/').count() % 2 == if path.starts_with("/apis/") { 1 } else { 0 };
        let answer = match *method {
            Method::POST => self.create(path, body),
            Method::GET if is_collection => (StatusCode::OK, self.list(path, query)),
            Method::GET => self.get(path),
            Method::PATCH => self.patch(path, &body),
            Method::DELETE => self.delete(path),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "not this way"),
        };
        let hook = match *method {
            Method::POST if answer.0 == StatusCode::CREATED => &self.made,
            Method::DELETE if answer.0 == StatusCode::OK => &self.removed,
            _ => return answer,
        };
        if let (true, Some(hook)) = (path.contains("/pods"), &*hook.lock()) {
            hook(&answer.1);
        }
        answer
    }

    fn create(&self, collection: &str, mut object: Value) -> (StatusCode, Value) {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let mut objects = self.objects.lock();
        let path = format!("{collection}/{name}");
        if objects.contains_key(&path) {
            return failure(StatusCode::CONFLICT, &format!("{name:?} already exists"));
        }
        object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
        if collection.ends_with("/pods") {
            object["status"] = json!({"phase": "Pending"});
        }
        objects.insert(path, object.clone());
        (StatusCode::CREATED, object)
    }

    fn list(&self, collection: &str, query: &str) -> Value {
        let objects = self.objects.lock();
        let below = objects.iter().filter(|(path, _)| path.rsplit_once('/').is_some_and(|(dir, _)| dir == collection));
        let items: Vec<&Value> = below.map(|(_, object)| object).filter(|object| is_selected(object, query)).collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
    }

    fn get(&self, path: &str) -> (StatusCode, Value) {
        match self.objects.lock().get(path) {
            Some(object) => (StatusCode::OK, object.clone()),
            None => failure(StatusCode::NOT_FOUND, "there is no such object"),
        }
    }

    fn patch(&self, path: &str, patch: &Value) -> (StatusCode, Value) {
        let mut objects = self.objects.lock();
        let Some(object) = objects.get_mut(path) else {
            return failure(StatusCode::NOT_FOUND, "there is no such object");
        };
        for (name, value) in patch.as_object().into_iter().flatten() {
            object[name] = value.clone();
        }
        (StatusCode::OK, object.clone())
    }

    fn delete(&self, path: &str) -> (StatusCode, Value) {
        match self.objects.lock().remove(path) {
            Some(object) => (StatusCode::OK, object),
            None => failure(StatusCode::NOT_FOUND, "there is no such object"),
        }
    }
}

/// Whether an object has the label and is on the node that a query asks for.
fn is_selected(object: &Value, query: &str) -> bool {
    query.split('&').all(|part| match part.split_once('=') {
        Some(("labelSelector", selector)) => {
            let has =
                |one: &str| one.split_once('=').is_none_or(|(name, value)| object["metadata"]["labels"][name] == value);
            selector.split(',').all(has)
        }
        Some(("fieldSelector", selector)) => {
            selector.strip_prefix("spec.nodeName=").is_none_or(|node| object["spec"]["nodeName"] == node)
        }
        _ => true,
    })
}
