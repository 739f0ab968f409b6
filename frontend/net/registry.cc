#include "frontend/net/registry.h"

#include <algorithm>
#include <array>
#include <utility>

#include "frontend/message/message.h"
#include "frontend/net/digest.h"
#include "policy/json/strict.h"
#include "policy/text/percent.h"

namespace postern::net {
namespace {

constexpr std::size_t kMaxManifest = std::size_t{4} << 20;
constexpr std::size_t kMaxToken = std::size_t{64} << 10;
constexpr unsigned kMaxPages = 1000;
constexpr unsigned kUploadTries = 3;
constexpr unsigned kMostAuthorizations = 3;  // of one scope that is refused again and again

constexpr std::string_view kOciManifest = "application/vnd.oci.image.manifest.v1+json";
constexpr std::string_view kOciIndex = "application/vnd.oci.image.index.v1+json";
constexpr std::string_view kDockerManifest = "application/vnd.docker.distribution.manifest.v2+json";
constexpr std::string_view kDockerList =
    "application/vnd.docker.distribution.manifest.list.v2+json";
constexpr std::string_view kSchema1 = "application/vnd.docker.distribution.manifest.v1";

bool is_visible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

std::string host_part(std::string_view host_and_port) {
  if (host_and_port.starts_with('[')) {
    return std::string(host_and_port.substr(1, host_and_port.find(']') - 1));
  }
  return std::string(host_and_port.substr(0, host_and_port.find(':')));
}

// A token server may be anywhere on the Internet, but a public registry must not have this machine
// ask its own network for something.
Outcome<> check_realm(const std::string& base, const std::string& realm) {
  POSTERN_TRY_ASSIGN(const std::string registry, host_of(base));
  POSTERN_TRY_ASSIGN(const std::string server, host_of(realm));
  if (!realm.starts_with("https:") && !base.starts_with("http:")) {
    return Problem{.what = base + " wants credentials to be sent without TLS, to " + realm};
  }
  if (server != registry && is_private_address(server) && !is_private_address(registry)) {
    return Problem{.what = base + " names a token server in a private network: " + realm};
  }
  return Ok{};
}

std::string with_query(const std::string& url, const std::string& query) {
  return url + (url.find('?') == std::string::npos ? "?" : "&") + query;
}

std::string scope_query(const std::string& service, const std::string& scope) {
  std::string out = "service=" + text::percent_encode(service);
  for (std::string_view rest = scope; !rest.empty();) {
    const std::size_t blank = rest.find(' ');
    if (blank != 0) {
      out += "&scope=" + text::percent_encode(rest.substr(0, blank));
    }
    rest = blank == std::string_view::npos ? std::string_view{} : rest.substr(blank + 1);
  }
  return out;
}

Outcome<std::string> token_of(const Answer& answer, const std::string& realm) {
  if (answer.status == 401 || answer.status == 403) {
    Problem problem = unexpected_answer(
        "unable to retrieve auth token: invalid username/password: unauthorized", answer);
    problem.cure = "check name and password (postern registry login)";
    return problem;
  }
  if (answer.status != 200) {
    return unexpected_answer("unable to retrieve auth token from " + realm, answer);
  }
  return parse_token(answer.body);
}

// OAuth2 with a refresh token; nothing where the server does not know it.
Outcome<std::optional<std::string>> refreshed_token(Client& client,
                                                    const Challenge& challenge,
                                                    const std::string& scope,
                                                    const Credentials& credentials) {
  Request request{.method = "POST", .url = challenge.realm, .most = kMaxToken};
  request.headers.push_back({"Content-Type", "application/x-www-form-urlencoded"});
  request.body = "grant_type=refresh_token&client_id=postern&refresh_token=" +
                 text::percent_encode(credentials.identity_token) + "&" +
                 scope_query(challenge.service, scope);
  POSTERN_TRY_ASSIGN(const Answer answer, client.perform(request));
  if (answer.status == 404 || answer.status == 405) {
    return std::optional<std::string>();
  }
  POSTERN_TRY_ASSIGN(std::string token, token_of(answer, challenge.realm));
  return std::optional(std::move(token));
}

Outcome<std::string> fetch_token(Client& client,
                                 const Challenge& challenge,
                                 const std::string& scope,
                                 const std::optional<Credentials>& credentials) {
  if (credentials && !credentials->registry_token.empty()) {
    return is_visible(credentials->registry_token)
               ? Outcome<std::string>(credentials->registry_token)
               : Problem{.what = "the registry token in the credential file is not a token"};
  }
  if (credentials && !credentials->identity_token.empty()) {
    POSTERN_TRY_ASSIGN(std::optional<std::string> token,
                       refreshed_token(client, challenge, scope, *credentials));
    if (token) {
      return *std::move(token);
    }
  }
  Request request{.url = with_query(challenge.realm, scope_query(challenge.service, scope)),
                  .most = kMaxToken};
  if (credentials && !credentials->user.empty()) {
    request.url += "&account=" + text::percent_encode(credentials->user);
    request.authorization = basic_authorization(credentials->user, credentials->password);
  }
  POSTERN_TRY_ASSIGN(const Answer answer, client.perform(request));
  return token_of(answer, challenge.realm);
}

std::optional<Challenge> challenge_of(const Answer& refusal) {
  for (const Header& header : refusal.headers) {
    if (header.name == "www-authenticate") {
      if (auto challenge = parse_challenge(header.value)) {
        return challenge;
      }
    }
  }
  return std::nullopt;
}

std::string accepted_types() {
  std::string out;
  for (const std::string_view type : {kOciManifest, kOciIndex, kDockerManifest, kDockerList}) {
    out += std::string(type) + ", ";
  }
  // Asked for last, so that an image of 2015 is named for what it is.
  return out + "application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.1";
}

}  // namespace

// ---- pure parsers

std::optional<Challenge> parse_challenge(std::string_view header) {
  const std::size_t blank = header.find(' ');
  const std::string scheme = lower(header.substr(0, blank));
  Challenge out;
  out.bearer = scheme == "bearer";
  if (!out.bearer && scheme != "basic") {
    return std::nullopt;
  }
  std::string_view rest =
      blank == std::string_view::npos ? std::string_view{} : header.substr(blank);
  while (true) {
    const std::size_t start = rest.find_first_not_of(" \t,");
    const std::size_t equals = rest.find('=');
    if (start == std::string_view::npos || equals == std::string_view::npos || equals < start) {
      break;
    }
    std::string name = lower(rest.substr(start, equals - start));
    name.erase(name.find_last_not_of(" \t") + 1);
    rest.remove_prefix(equals + 1);
    rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));  // RFC 9110 §5.6.6
    std::string value;
    if (rest.starts_with('"')) {
      std::size_t at = 1;
      for (; at < rest.size() && rest[at] != '"'; ++at) {
        at += rest[at] == '\\' && at + 1 < rest.size() ? 1U : 0U;
        value += rest[at];
      }
      rest.remove_prefix(std::min(at + 1, rest.size()));
    } else {
      const std::size_t end = std::min(rest.find_first_of(" \t,"), rest.size());
      value = rest.substr(0, end);
      rest.remove_prefix(end);
    }
    if (name == "realm") {
      out.realm = std::move(value);
    } else if (name == "service") {
      out.service = std::move(value);
    } else if (name == "scope") {
      out.scope = std::move(value);
    }
  }
  return out.bearer && out.realm.empty() ? std::nullopt : std::optional(std::move(out));
}

Outcome<std::string> parse_token(std::string_view body) {
  const auto document = json::parse(body, {.bytes = kMaxToken});
  if (!document) {
    return Problem{.what = "the token server's answer is not JSON: " + document.error().what};
  }
  using Kind = json::Value::Kind;
  for (const char* name : {"token", "access_token"}) {
    if (const json::Value* value = document->find(name, Kind::kString);
        value != nullptr && !value->text.empty()) {
      if (!is_visible(value->text)) {
        return Problem{.what = "the token server's token has bytes that no token has"};
      }
      return value->text;
    }
  }
  return Problem{.what = "the token server's answer holds no token"};
}

Outcome<std::string> manifest_media_type(std::string_view content_type, std::string_view bytes) {
  const std::string header = lower(content_type.substr(0, content_type.find_first_of("; \t")));
  const auto document = json::parse(bytes, {.bytes = kMaxManifest, .depth = 32});
  if (!document || document->kind != json::Value::Kind::kObject) {
    return Problem{.what = "the server answers with '" + header.substr(0, 100) +
                           "' that is no image manifest" +
                           (document ? "" : ": " + document.error().what)};
  }
  using Kind = json::Value::Kind;
  const json::Value* own = document->find("mediaType", Kind::kString);
  const json::Value* version = document->find("schemaVersion", Kind::kUnsigned);
  if (header.starts_with(kSchema1) || (own != nullptr && own->text.starts_with(kSchema1)) ||
      (version != nullptr && version->number == 1)) {
    return Problem{.what =
                       "unsupported MediaType: \"application/vnd.docker.distribution.manifest.v1"
                       "+prettyjws\": an image of schema 1",
                   .cure =
                       "push the image again with a tool of this decade: skopeo copy "
                       "--format=oci"};
  }
  const bool lists = document->find("manifests") != nullptr;
  const bool layers = document->find("layers") != nullptr || document->find("config") != nullptr;
  if (lists && layers) {
    return Problem{.what = "the document is an image index and an image manifest at once",
                   .cure = "two readers may take it for two images: do not trust it"};
  }
  const auto is_known = [](std::string_view type) {
    return type == kOciManifest || type == kOciIndex || type == kDockerManifest ||
           type == kDockerList;
  };
  if (own != nullptr && is_known(header) && own->text != header) {
    return Problem{.what = "the server calls the document '" + header + "', it calls itself '" +
                           own->text.substr(0, 100) + "'",
                   .cure = "two readers may take it for two images: do not trust it"};
  }
  std::string type = is_known(header) ? header
                     : own != nullptr ? own->text
                     : lists          ? std::string(kOciIndex)
                                      : std::string(kOciManifest);
  if (!is_known(type)) {
    return Problem{.what = "unsupported MediaType: \"" + type.substr(0, 100) + "\""};
  }
  const bool index = type == kOciIndex || type == kDockerList;
  if (index != lists) {
    return Problem{.what = "the document is called '" + type + "' but is not one"};
  }
  return type;
}

std::string next_page(std::string_view link) {
  const std::size_t open = link.find('<');
  const std::size_t close = link.find('>', open == std::string_view::npos ? 0 : open);
  if (open == std::string_view::npos || close == std::string_view::npos ||
      link.substr(close).find("next") == std::string_view::npos) {
    return {};
  }
  return std::string(link.substr(open + 1, close - open - 1));
}

// ---- Session

Session::Session(SessionOptions options)
    : options_(std::move(options)),
      client_({.verify_tls = !options_.no_https,
               .plain_redirects = options_.no_https,
               .cancelled = options_.cancelled,
               .sent = options_.sent}) {}

Outcome<std::string> Session::base_of(const std::string& host) {
  if (const auto known = bases_.find(host); known != bases_.end()) {
    return known->second;
  }
  std::string base = "https://" + host;
  if (options_.no_https || is_loopback(host_part(host))) {
    // Only a server that answers over TLS is asked over TLS.
    const auto secure = client_.perform({.url = base + "/v2/", .retry = false});
    if (!secure) {
      const std::string plain = "http://" + host;
      const auto insecure = client_.perform({.url = plain + "/v2/", .retry = false});
      if (!insecure) {
        // A certificate that nobody vouches for is what is wrong, not that no HTTP is spoken.
        const bool reached = secure.error().what.find("cannot reach") == std::string::npos &&
                             secure.error().what.find("TLS") == std::string::npos;
        return reached ? secure.error() : insecure.error();
      }
      if (insecure->status == 400 && secure.error().what.find("certificate") != std::string::npos) {
        return secure.error();  // "client sent an HTTP request to an HTTPS server"
      }
      base = plain;
    }
  }
  bases_[host] = base;
  return base;
}

std::string Session::known_authorization(const std::string& base, const std::string& scope) const {
  const auto found = authorizations_.find(base + " " + scope);
  return found == authorizations_.end() ? "" : found->second.value;
}

Outcome<std::string> Session::authorize(const std::string& base,
                                        const std::string& credential_key,
                                        const std::string& repository,
                                        const std::string& scope,
                                        const Answer& refusal) {
  Tried& tried = authorizations_[base + " " + scope];
  const std::optional<Challenge> challenge = challenge_of(refusal);
  if (!challenge || ++tried.times > kMostAuthorizations * 10) {
    return std::string();
  }
  POSTERN_TRY_ASSIGN(const std::optional<Credentials> credentials,
                     find_credentials(options_.credentials, credential_key, repository));
  std::string value;
  if (challenge->bearer) {
    POSTERN_TRY(check_realm(base, challenge->realm));
    std::string wanted = scope;
    if (!challenge->scope.empty() && wanted.find(challenge->scope) == std::string::npos) {
      wanted += (wanted.empty() ? "" : " ") + challenge->scope;
    }
    POSTERN_TRY_ASSIGN(const std::string token,
                       fetch_token(client_, *challenge, wanted, credentials));
    value = "Bearer " + token;
  } else if (credentials && !credentials->user.empty()) {
    value = basic_authorization(credentials->user, credentials->password);
  }
  // What was refused just now is not tried again.
  const bool again = !challenge->bearer && value == tried.value;
  tried.value = value;
  return again ? std::string() : value;
}

// ---- Registry

Outcome<Registry> Registry::open(Session& session, Reference reference, std::string actions) {
  POSTERN_TRY_ASSIGN(std::string base, session.base_of(reference.api_host()));
  std::string scope = "repository:" + reference.repository + ":" + actions;
  return Registry(session, std::move(reference), std::move(base), std::move(scope));
}

Request Registry::authorized(Request request) {
  request.authorization = session_->known_authorization(base_, scope_);
  request.challenge = [session = session_, base = base_, key = reference_.credential_key(),
                       repository = reference_.repository, scope = scope_](const Answer& refusal) {
    return session->authorize(base, key, repository, scope, refusal);
  };
  return request;
}

Request Registry::request(std::string method, const std::string& path) {
  return authorized(
      {.method = std::move(method), .url = base_ + "/v2/" + reference_.repository + path});
}

Outcome<std::string> Registry::resolve(const std::string& tag_or_digest) {
  Request head = request("HEAD", "/manifests/" + tag_or_digest);
  head.headers.push_back({"Accept", accepted_types()});
  POSTERN_TRY_ASSIGN(const Answer answer, session_->client().perform(head));
  const std::string* digest = answer.header("docker-content-digest");
  if (answer.status == 200 && digest != nullptr && is_digest(*digest) &&
      (!is_digest(tag_or_digest) || *digest == tag_or_digest)) {
    return *digest;
  }
  POSTERN_TRY_ASSIGN(const Manifest whole, manifest(tag_or_digest));  // errors with words
  return whole.digest;
}

Outcome<Manifest> Registry::manifest(const std::string& tag_or_digest) {
  Request get = request("GET", "/manifests/" + tag_or_digest);
  get.headers.push_back({"Accept", accepted_types()});
  get.most = kMaxManifest;
  POSTERN_TRY_ASSIGN(Answer answer, session_->client().perform(get));
  const std::string name = reference_.host + "/" + reference_.repository +
                           (is_digest(tag_or_digest) ? "@" : ":") + tag_or_digest;
  if (answer.status != 200) {
    Problem problem = unexpected_answer("reading manifest of " + name, answer);
    if (answer.status == 404) {
      problem.cure = "check the name and the tag";
    } else if (answer.status == 401 || answer.status == 403) {
      problem.cure = "check the name; if the image is private, log in: postern registry login";
    }
    return problem;
  }
  Manifest out;
  out.digest = "sha256:" + sha256_hex(answer.body);
  const std::string* promised = answer.header("docker-content-digest");
  const std::string wanted = is_digest(tag_or_digest) ? tag_or_digest
                             : promised != nullptr && promised->starts_with("sha256:") ? *promised
                                                                                       : out.digest;
  if (out.digest != wanted) {
    return Problem{.what = "the manifest of " + name + " has the digest " + out.digest + ", not " +
                           wanted.substr(0, 100),
                   .cure =
                       "the server, or something between it and this machine, sends other "
                       "bytes than the image has: do not trust it"};
  }
  const std::string* type = answer.header("content-type");
  auto media_type = manifest_media_type(type != nullptr ? *type : "", answer.body);
  if (!media_type) {
    Problem problem = std::move(media_type).error();
    problem.what = name + ": " + problem.what;
    return problem;
  }
  out.media_type = *std::move(media_type);
  out.bytes = std::move(answer.body);
  return out;
}

Outcome<std::string> Registry::document(const std::string& digest, std::uint64_t size) {
  if (size > kMaxManifest) {
    return Problem{.what = "the document " + digest + " has " + std::to_string(size) + " bytes; " +
                           std::to_string(kMaxManifest) + " are allowed"};
  }
  Request get = request("GET", "/blobs/" + digest);
  get.most = kMaxManifest;
  POSTERN_TRY_ASSIGN(Answer answer, session_->client().perform(get));
  if (answer.status != 200) {
    return unexpected_answer("reading " + digest + " of " + reference_.name(), answer);
  }
  const std::string found = "sha256:" + sha256_hex(answer.body);
  if (found != digest || answer.body.size() != size) {
    return Problem{.what = "error verifying sha256 checksum after reading " +
                           std::to_string(answer.body.size()) + " bytes; got \"" + found +
                           "\", want \"" + digest + "\"",
                   .cure =
                       "the server, or something between it and this machine, sends other "
                       "bytes than the image has: do not trust it"};
  }
  return std::move(answer.body);
}

Request Registry::blob_request(const std::string& digest) {
  return request("GET", "/blobs/" + digest);
}

Outcome<bool> Registry::has_blob(const std::string& digest) {
  POSTERN_TRY_ASSIGN(const Answer answer,
                     session_->client().perform(request("HEAD", "/blobs/" + digest)));
  const std::string* found = answer.header("docker-content-digest");
  return answer.status == 200 && (found == nullptr || *found == digest);
}

Outcome<> Registry::upload_once(const std::string& digest, const Request& body) {
  POSTERN_TRY_ASSIGN(const Answer begun,
                     session_->client().perform(request("POST", "/blobs/uploads/")));
  const auto refused = [&](const Answer& answer) {
    Problem problem = unexpected_answer("uploading to " + reference_.name(), answer);
    if (answer.status == 413) {
      problem.cure = "the server, or a proxy before it, takes no body of this size";
    }
    return problem;
  };
  const std::string* location = begun.header("location");
  if (begun.status != 202 || location == nullptr) {
    return refused(begun);
  }
  POSTERN_TRY_ASSIGN(const std::string place, resolve_url(begun.url, *location));
  // Credentials stay with the registry: an upload elsewhere gets none.
  POSTERN_TRY_ASSIGN(const std::string here, origin_of(base_));
  POSTERN_TRY_ASSIGN(const std::string there, origin_of(place));
  const auto to = [&](Request request) {
    return here == there ? authorized(std::move(request)) : request;
  };
  Request patch = body;
  patch.method = "PATCH";
  patch.url = place;
  patch.retry = false;  // a part may have arrived: the upload begins anew
  patch.headers = {{"Content-Type", "application/octet-stream"}};
  POSTERN_TRY_ASSIGN(const Answer patched, session_->client().perform(to(patch)));
  const std::string* next = patched.header("location");
  if (patched.status != 202 && patched.status != 201 && patched.status != 204) {
    return refused(patched);
  }
  POSTERN_TRY_ASSIGN(const std::string end, next != nullptr ? resolve_url(patched.url, *next)
                                                            : Outcome<std::string>(place));
  Request put{.method = "PUT", .url = with_query(end, "digest=" + text::percent_encode(digest))};
  POSTERN_TRY_ASSIGN(const Answer done, session_->client().perform(to(put)));
  return done.status == 201 || done.status == 204 ? Outcome<>() : refused(done);
}

Outcome<> Registry::upload(const std::string& digest, int file, std::uint64_t bytes) {
  Request body;
  body.file = file;
  body.file_bytes = bytes;
  Outcome<> done;
  for (unsigned i = 0; i < kUploadTries; ++i) {
    done = upload_once(digest, body);
    if (done || (session_->options().cancelled && session_->options().cancelled())) {
      break;
    }
    message::debug(done.error().what);
  }
  return done;
}

Outcome<> Registry::upload(const std::string& digest, const std::string& text) {
  Request body;
  body.body = text;
  return upload_once(digest, body);
}

Outcome<std::string> Registry::put_manifest(const std::string& tag_or_digest,
                                            const std::string& media_type,
                                            const std::string& bytes) {
  Request put = request("PUT", "/manifests/" + tag_or_digest);
  put.headers.push_back({"Content-Type", media_type});
  put.body = bytes;
  POSTERN_TRY_ASSIGN(const Answer answer, session_->client().perform(put));
  if (answer.status != 201 && answer.status != 200) {
    return unexpected_answer("storing the manifest of " + reference_.name(), answer);
  }
  return "sha256:" + sha256_hex(bytes);
}

Outcome<> Registry::remove(const std::string& digest) {
  POSTERN_TRY_ASSIGN(const Answer answer,
                     session_->client().perform(request("DELETE", "/manifests/" + digest)));
  if (answer.status == 200 || answer.status == 202) {
    return Ok{};
  }
  Problem problem = unexpected_answer("deleting " + reference_.name(), answer);
  if (answer.status == 405) {
    problem.cure = "the registry does not allow deletion";
  }
  return problem;
}

namespace {

// The strings of the array `name` in each page.
Outcome<std::vector<std::string>> pages(Client& client, Request request, const char* name) {
  std::vector<std::string> out;
  for (unsigned i = 0; i < kMaxPages; ++i) {
    POSTERN_TRY_ASSIGN(const Answer answer, client.perform(request));
    if (answer.status != 200) {
      return unexpected_answer("listing at " + request.url, answer);
    }
    POSTERN_TRY_ASSIGN(const json::Value document, json::parse(answer.body));
    if (const json::Value* list = document.find(name, json::Value::Kind::kArray); list != nullptr) {
      for (const json::Value& item : list->items) {
        out.push_back(item.text);
      }
    }
    const std::string* link = answer.header("link");
    const std::string next = link != nullptr ? next_page(*link) : "";
    if (next.empty()) {
      break;
    }
    POSTERN_TRY_ASSIGN(const std::string url, resolve_url(request.url, next));
    POSTERN_TRY_ASSIGN(const std::string here, origin_of(request.url));
    POSTERN_TRY_ASSIGN(const std::string there, origin_of(url));
    if (here != there) {
      return Problem{.what = request.url + " goes on at another server: " + url};
    }
    request.url = url;
  }
  return out;
}

}  // namespace

Outcome<std::vector<std::string>> Registry::tags() {
  return pages(session_->client(), request("GET", "/tags/list?n=1000"), "tags");
}

Outcome<std::vector<std::string>> catalog(Session& session, const std::string& host) {
  POSTERN_TRY_ASSIGN(const std::string base, session.base_of(host));
  Request request{.url = base + "/v2/_catalog?n=1000"};
  request.challenge = [&session, base, host](const Answer& refusal) {
    return session.authorize(base, host, "", "registry:catalog:*", refusal);
  };
  return pages(session.client(), request, "repositories");
}

Outcome<> check_login(Session& session, const std::string& host) {
  POSTERN_TRY_ASSIGN(const std::string base, session.base_of(host));
  Request request{.url = base + "/v2/"};
  request.challenge = [&session, base, host](const Answer& refusal) {
    return session.authorize(base, host, "", "", refusal);
  };
  POSTERN_TRY_ASSIGN(const Answer answer, session.client().perform(request));
  return answer.status == 200
             ? Outcome<>()
             : unexpected_answer("logging in to " + host + ": unauthorized", answer);
}

}  // namespace postern::net
