#include "frontend/imagebuild/spec.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <utility>

#include <sys/stat.h>

#include <fcntl.h>
#include <unistd.h>

#include "protocol/base/unique_fd.h"

namespace postern::imagebuild {
namespace {

constexpr std::array<std::pair<std::string_view, SourceKind>, 4> kTransports = {{
    {"docker-archive:", SourceKind::kDockerArchive},
    {"oci-archive:", SourceKind::kOciArchive},
    {"oci:", SourceKind::kOciLayout},
    {"dir:", SourceKind::kDirectory},
}};

constexpr std::array<std::pair<std::string_view, SourceKind>, 3> kRemote = {{
    {"docker:", SourceKind::kDocker},
    {"oras:", SourceKind::kOras},
    {"library:", SourceKind::kLibrary},
}};

// What other programs fetch from, and the way round.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kElsewhere = {{
    {"docker-daemon:",
     "save the image first: docker save NAME:TAG > FILE, then docker-archive:FILE"},
    {"containers-storage:", "copy it first: skopeo copy containers-storage:NAME oci:DIR:TAG"},
    {"shub:",
     "Singularity Hub ended in 2021: look for the image at another place (docker://, "
     "library://, oras://)"},
    {"ipfs:", "fetch it through a gateway: https://GATEWAY/ipfs/CID"},
}};

bool path_exists(const std::string& path) {
  return ::access(path.c_str(), F_OK) == 0;
}

bool exists_in(const std::string& directory, const char* name) {
  return path_exists(directory + "/" + name);
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

// The first line with words is the first header of a definition file. A line that a zero byte ends
// is the name of a tar archive's first member.
bool starts_with_bootstrap(std::string_view head) {
  const bool cut = head.find('\0') != std::string_view::npos;
  head = head.substr(0, head.find('\0'));
  while (!head.empty()) {
    const std::size_t end = head.find('\n');
    if (end == std::string_view::npos && cut) {
      return false;
    }
    std::string_view line = head.substr(0, end);
    head.remove_prefix(end == std::string_view::npos ? head.size() : end + 1);
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.front())) != 0) {
      line.remove_prefix(1);
    }
    if (!line.empty() && line.front() != '#') {
      return lower(line).starts_with("bootstrap");
    }
  }
  return false;
}

// No control characters but those of text. Every archive and compressed file has some.
bool is_text(std::string_view head) {
  return std::none_of(head.begin(), head.end(), [](unsigned char c) {
    return std::iscntrl(c) != 0 && std::isspace(c) == 0 && c != '\x1b' && c != 0x7f;
  });
}

}  // namespace

std::string_view bootstrap_name(SourceKind kind) {
  switch (kind) {
    case SourceKind::kDockerArchive:
      return "docker-archive";
    case SourceKind::kOciArchive:
      return "oci-archive";
    case SourceKind::kOciLayout:
      return "oci";
    case SourceKind::kDocker:
      return "docker";
    case SourceKind::kOras:
      return "oras";
    case SourceKind::kLibrary:
      return "library";
    case SourceKind::kHttp:
    case SourceKind::kDirectory:
    case SourceKind::kTar:
    case SourceKind::kSquashfs:
    case SourceKind::kSif:
    case SourceKind::kDefinition:
      break;
  }
  return "localimage";
}

Outcome<bool> split_transport(std::string_view text,
                              const std::function<bool(const std::string&)>& exists,
                              SourceSpec& out) {
  for (const auto& [prefix, cure] : kElsewhere) {
    if (text.starts_with(prefix)) {
      return Problem{.what = "'" + std::string(text) + "' is not fetched by this program",
                     .cure = std::string(cure)};
    }
  }
  for (const auto& [prefix, kind] : kRemote) {
    if (text.starts_with(prefix) && text.substr(prefix.size()).starts_with("//")) {
      out.kind = kind;
      out.path = text.substr(prefix.size() + 2);
      return true;
    }
  }
  if (text.starts_with("http://") || text.starts_with("https://")) {
    out.kind = SourceKind::kHttp;
    out.path = text;
    return true;
  }
  for (const auto& [prefix, kind] : kTransports) {
    if (!text.starts_with(prefix)) {
      continue;
    }
    text.remove_prefix(prefix.size());
    if (text.starts_with("//")) {
      text.remove_prefix(2);
    }
    out.kind = kind;
    out.path = text;
    if (kind == SourceKind::kDirectory) {
      return true;
    }
    // The longest part before a colon that exists is the path.
    for (std::size_t colon = text.size(); colon != std::string_view::npos && colon != 0;
         colon = text.rfind(':', colon - 1)) {
      if (exists(std::string(text.substr(0, colon)))) {
        out.path = text.substr(0, colon);
        out.reference = colon < text.size() ? text.substr(colon + 1) : std::string_view{};
        return true;
      }
    }
    return true;  // opening it says what is wrong
  }
  return false;
}

SourceKind kind_of_head(std::string_view head) {
  if (head.substr(0, 2048).find(std::string_view("SIF_MAGIC", 9)) != std::string_view::npos) {
    return SourceKind::kSif;
  }
  if (head.starts_with("hsqs")) {
    return SourceKind::kSquashfs;
  }
  // An interpreter line before squashfs: images of before SIF.
  if (const std::size_t line = head.find('\n'); head.starts_with("#!") &&
                                                line != std::string_view::npos &&
                                                head.substr(line + 1).starts_with("hsqs")) {
    return SourceKind::kSquashfs;
  }
  // Everything else that is text was meant as one: its parser names what is wrong.
  return starts_with_bootstrap(head) || is_text(head) ? SourceKind::kDefinition : SourceKind::kTar;
}

Outcome<SourceSpec> identify_source(const std::string& text) {
  SourceSpec spec;
  POSTERN_TRY_ASSIGN(const bool known, split_transport(text, path_exists, spec));
  if (known) {
    return spec;
  }
  spec.path = text;
  const UniqueFd fd(::open(text.c_str(), O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  struct stat status{};
  if (!fd.valid() || ::fstat(fd.get(), &status) != 0) {
    return system_problem("opening '" + text + "'", errno,
                          errno == EACCES ? "make it readable (chmod u+r)" : "");
  }
  if (S_ISDIR(status.st_mode)) {
    const bool layout = exists_in(text, "oci-layout") && exists_in(text, "index.json");
    spec.kind = layout ? SourceKind::kOciLayout : SourceKind::kDirectory;
    return spec;
  }
  if (!S_ISREG(status.st_mode)) {
    return Problem{.what = "'" + text + "' is neither a file nor a directory",
                   .cure = "write it to a file first: it is read twice"};
  }
  std::string head(4096, '\0');
  const ssize_t got = ::pread(fd.get(), head.data(), head.size(), 0);
  if (got < 0) {
    return system_problem("reading '" + text + "'", errno);
  }
  if (got == 0) {
    return Problem{.what = "'" + text + "' is empty",
                   .cure = "give a directory, an archive, an image or a definition file"};
  }
  head.resize(static_cast<std::size_t>(got));
  spec.kind = kind_of_head(head);
  return spec;
}

}  // namespace postern::imagebuild
