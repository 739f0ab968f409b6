#include "frontend/net/reference.h"

#include <algorithm>
#include <array>

#include "policy/text/hex.h"

namespace postern::net {
namespace {

constexpr std::size_t kMaxRepository = 255;
constexpr std::size_t kMaxTag = 128;
constexpr std::string_view kDigest = "sha256:";

bool is_lower_or_digit(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

bool is_word(char c) {
  return is_lower_or_digit(c) || (c >= 'A' && c <= 'Z') || c == '_';
}

Problem invalid(std::string_view text, const std::string& why) {
  return Problem{
      .what = "invalid reference format: '" + std::string(text.substr(0, 200)) + "': " + why,
      .cure = "an image is named [HOST[:PORT]/]PATH[:TAG] or …@sha256:DIGEST"};
}

// A part of a path: lower-case letters and digits, joined by ".", "_", "__" or dashes (the
// distribution specification, "Pulling manifests").
bool is_path_part(std::string_view part) {
  if (part.empty() || !is_lower_or_digit(part.front()) || !is_lower_or_digit(part.back())) {
    return false;
  }
  for (std::size_t i = 0; i < part.size();) {
    if (is_lower_or_digit(part[i])) {
      ++i;
      continue;
    }
    const std::size_t end = std::min(part.find_first_not_of(part[i], i), part.size());
    const std::size_t length = end - i;
    const bool joins =
        part[i] == '-' || (part[i] == '.' && length == 1) || (part[i] == '_' && length <= 2);
    if (!joins || !is_lower_or_digit(part[end])) {
      return false;
    }
    i = end;
  }
  return true;
}

bool is_host(std::string_view host) {
  std::string_view name = host;
  if (host.starts_with('[')) {  // IPv6
    const std::size_t end = host.find(']');
    if (end == std::string_view::npos || end == 1 ||
        host.substr(1, end - 1).find_first_not_of("0123456789abcdefABCDEF:.") !=
            std::string_view::npos) {
      return false;
    }
    name = host.substr(end + 1);
    if (!name.empty() && name.front() != ':') {
      return false;
    }
  }
  if (const std::size_t colon = name.rfind(':'); colon != std::string_view::npos) {
    const std::string_view port = name.substr(colon + 1);
    if (port.empty() || port.size() > 5 ||
        port.find_first_not_of("0123456789") != std::string_view::npos) {
      return false;
    }
    name = name.substr(0, colon);
  }
  if (host.starts_with('[')) {
    return true;
  }
  while (true) {  // labels, joined by dots
    const std::size_t dot = name.find('.');
    const std::string_view label = name.substr(0, dot);
    if (label.empty() || label.front() == '-' || label.back() == '-' ||
        !std::all_of(label.begin(), label.end(),
                     [](char c) { return (is_word(c) && c != '_') || c == '-'; })) {
      return false;
    }
    if (dot == std::string_view::npos) {
      return true;
    }
    name.remove_prefix(dot + 1);
  }
}

bool is_tag(std::string_view tag) {
  return !tag.empty() && tag.size() <= kMaxTag && is_word(tag.front()) &&
         std::all_of(tag.begin(), tag.end(),
                     [](char c) { return is_word(c) || c == '.' || c == '-'; });
}

// Splits "HOST/rest" where the first part can only be a host.
void take_host(std::string_view& rest, Reference& out) {
  const std::size_t slash = rest.find('/');
  const std::string_view first = rest.substr(0, slash);
  const bool host = slash != std::string_view::npos &&
                    (first.find_first_of(".:") != std::string_view::npos || first == "localhost");
  out.host = host ? std::string(first) : "docker.io";
  if (host) {
    rest.remove_prefix(slash + 1);
  }
  if (out.host == "index.docker.io" || out.host == "registry-1.docker.io") {
    out.host = "docker.io";
  }
}

}  // namespace

bool is_digest(std::string_view text) {
  return text.starts_with(kDigest) && text::is_lower_hex(text.substr(kDigest.size()), 64);
}

std::string_view transport_of(std::string_view text) {
  constexpr std::array<std::string_view, 12> kWithoutSlashes = {
      "library", "shub",        "docker", "docker-archive", "docker-daemon", "oci",
      "http",    "oci-archive", "https",  "oras",           "ipfs",          "instance"};
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos || colon == 0) {
    return {};
  }
  const std::string_view word = text.substr(0, colon);
  const bool is_name = std::all_of(word.begin(), word.end(), [](char c) {
    return is_word(c) || c == '-' || c == '+' || c == '.';
  });
  const bool slashes = text.substr(colon + 1).starts_with("//");
  const bool known =
      std::find(kWithoutSlashes.begin(), kWithoutSlashes.end(), word) != kWithoutSlashes.end();
  return is_name && (slashes || known) ? word : std::string_view{};
}

std::string_view after_transport(std::string_view text) {
  const std::string_view transport = transport_of(text);
  if (transport.empty()) {
    return text;
  }
  text.remove_prefix(transport.size() + 1);
  if (text.starts_with("//")) {
    text.remove_prefix(2);
  }
  return text;
}

std::string Reference::name() const {
  return host + "/" + repository + (digest.empty() ? ":" + tag : "@" + digest);
}

std::string Reference::credential_key() const {
  return host == "docker.io" ? "https://index.docker.io/v1/" : host;
}

std::string Reference::api_host() const {
  return host == "docker.io" ? "registry-1.docker.io" : host;
}

Outcome<Reference> parse_reference(std::string_view text) {
  Reference out;
  std::string_view rest = text;
  if (const std::size_t at = rest.find('@'); at != std::string_view::npos) {
    out.digest = rest.substr(at + 1);
    rest = rest.substr(0, at);
    if (!is_digest(out.digest)) {
      return invalid(text, "a digest is sha256: and 64 lower-case hexadecimal digits");
    }
  }
  take_host(rest, out);
  if (!is_host(out.host)) {
    return invalid(text, "'" + out.host + "' is not a host");
  }
  if (const std::size_t colon = rest.find(':'); colon != std::string_view::npos) {
    out.tag = rest.substr(colon + 1);
    rest = rest.substr(0, colon);
    if (!is_tag(out.tag)) {
      return invalid(text, "a tag is made of letters, digits, '.', '_' and '-'");
    }
  }
  out.repository = rest;
  if (out.host == "docker.io" && rest.find('/') == std::string_view::npos) {
    out.repository = "library/" + out.repository;
  }
  if (std::any_of(rest.begin(), rest.end(), [](char c) { return c >= 'A' && c <= 'Z'; })) {
    return invalid(text, "repository name must be lowercase");
  }
  if (out.repository.size() > kMaxRepository) {
    return invalid(text, "a repository name has at most 255 bytes");
  }
  std::string_view path = out.repository;
  while (true) {
    const std::size_t slash = path.find('/');
    if (!is_path_part(path.substr(0, slash))) {
      return invalid(text, path.empty() || rest.empty()
                               ? "the repository is missing"
                               : "the repository has a part that is no name");
    }
    if (slash == std::string_view::npos) {
      break;
    }
    path.remove_prefix(slash + 1);
  }
  if (!out.digest.empty()) {
    out.tag.clear();
  } else if (out.tag.empty()) {
    out.tag = "latest";
  }
  return out;
}

Outcome<LibraryReference> parse_library_reference(std::string_view text) {
  LibraryReference out;
  std::string_view rest = text;
  while (rest.starts_with('/')) {
    rest.remove_prefix(1);
  }
  if (std::count(rest.begin(), rest.end(), '/') >= 3) {
    const std::size_t slash = rest.find('/');
    out.host = rest.substr(0, slash);
    rest.remove_prefix(slash + 1);
    if (!is_host(out.host)) {
      return invalid(text, "'" + out.host + "' is not a host");
    }
  }
  const std::size_t colon = rest.find(':');
  out.path = rest.substr(0, colon);
  std::string_view tags = colon == std::string_view::npos ? "latest" : rest.substr(colon + 1);
  while (!tags.empty()) {
    const std::size_t comma = tags.find(',');
    const std::string_view tag = tags.substr(0, comma);
    if (!is_tag(tag)) {
      return invalid(text, "a tag is made of letters, digits, '.', '_' and '-'");
    }
    out.tags.emplace_back(tag);
    tags = comma == std::string_view::npos ? std::string_view{} : tags.substr(comma + 1);
  }
  std::string_view path = out.path;
  while (true) {
    const std::size_t slash = path.find('/');
    if (!is_path_part(path.substr(0, slash)) || out.tags.empty()) {
      return Problem{
          .what = "bad request: malformed image path: '" + std::string(text.substr(0, 200)) + "'",
          .cure = "an image in a library is named ENTITY/COLLECTION/CONTAINER[:TAG]"};
    }
    if (slash == std::string_view::npos) {
      break;
    }
    path.remove_prefix(slash + 1);
  }
  out.tag = out.tags.front();
  return out;
}

Outcome<std::string> file_name_of(std::string_view uri) {
  const std::string_view transport = transport_of(uri);
  std::string_view rest = after_transport(uri);
  while (rest.ends_with('/')) {
    rest.remove_suffix(1);
  }
  const std::size_t slash = rest.rfind('/');
  std::string name(slash == std::string_view::npos ? rest : rest.substr(slash + 1));
  if (transport != "http" && transport != "https") {
    const std::size_t comma = name.find(',');
    name = name.substr(0, comma);
    const bool tagged = name.find(':') != std::string::npos;
    std::replace(name.begin(), name.end(), ':', '_');
    name += tagged ? ".sif" : "_latest.sif";
    if (rest.empty()) {
      name.clear();
    }
  }
  if (name.empty() || name == "." || name == ".." || name.find('\0') != std::string::npos) {
    return Problem{.what = "Bad URI " + std::string(uri), .cure = "name an image after '://'"};
  }
  return name;
}

}  // namespace postern::net
