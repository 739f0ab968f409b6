#include "frontend/imagebuild/bootstrap_tool.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/stat.h>

#include <unistd.h>

#include "frontend/imagebuild/container.h"
#include "frontend/message/message.h"

namespace postern::imagebuild {
namespace {

using Words = std::vector<std::string>;

Words split_blanks(const std::string& text) {
  Words words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = text.find_first_not_of(" \t\n,", at);
    if (start == std::string::npos) {
      break;
    }
    const std::size_t end = std::min(text.find_first_of(" \t\n,", start), text.size());
    words.push_back(text.substr(start, end - start));
    at = end;
  }
  return words;
}

std::string joined(const Words& words, const char* between) {
  std::string text;
  for (const std::string& word : words) {
    text += (text.empty() ? "" : between) + word;
  }
  return text;
}

// The program by PATH and in the system's directories, which a user's PATH may lack; "" if none.
std::string find_program(const std::string& name) {
  const char* path = std::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): one thread
  std::string places = std::string(path != nullptr ? path : "") +
                       ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  for (std::size_t at = 0; at <= places.size();) {
    const std::size_t end = std::min(places.find(':', at), places.size());
    const std::string candidate = places.substr(at, end - at) + "/" + name;
    if (candidate.front() == '/' && candidate.size() > name.size() + 1 &&
        ::access(candidate.c_str(), X_OK) == 0) {
      return candidate;
    }
    at = end + 1;
  }
  return {};
}

Outcome<> write_file(const std::string& path, const std::string& text) {
  std::error_code ignored;  // opening the file says it
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  std::ofstream file(path, std::ios::trunc);
  file << text;
  file.close();
  return file ? Outcome<>() : system_problem("writing '" + path + "'", errno);
}

// Debian's name of this architecture, or of --arch.
std::string debian_architecture(const std::string& wanted) {
  static constexpr std::array<std::pair<std::string_view, const char*>, 5> kNames = {
      {{"386", "i386"},
       {"arm", "armhf"},
       {"ppc64le", "ppc64el"},
       {"mipsle", "mipsel"},
       {"mips64le", "mips64el"}}};
  const std::string name =
      wanted.empty() ? std::string(sif::name_of(sif::host_architecture())) : wanted;
  const auto* const found = std::find_if(kNames.begin(), kNames.end(),
                                         [&](const auto& pair) { return pair.first == name; });
  return found == kNames.end() ? name : found->second;
}

class Tool {
 public:
  Tool(std::string name,
       const std::map<std::string, std::string>& header,
       std::string root,
       const BuildOptions& options)
      : name_(std::move(name)), header_(header), root_(std::move(root)), options_(options) {}

  Outcome<> run() {
    if (name_ == "debootstrap") {
      return debootstrap();
    }
    if (name_ == "zypper") {
      return zypper();
    }
    if (name_ == "arch") {
      return arch();
    }
    return name_ == "busybox" ? busybox() : dnf();
  }

 private:
  [[nodiscard]] std::string header(const char* key) const {
    const auto found = header_.find(key);
    return found == header_.end() ? std::string() : found->second;
  }

  Outcome<std::string> required(const char* key, const char* shown) const {
    std::string value = header(key);
    if (value.empty()) {
      return Problem{.what = "Bootstrap: " + name_ + " needs the header '" + shown + ":'"};
    }
    return value;
  }

  // %{OSVERSION} in a URL.
  Outcome<std::string> url(const char* key, const char* shown) const {
    POSTERN_TRY_ASSIGN(std::string text, required(key, shown));
    constexpr std::string_view kVariable = "%{OSVERSION}";
    const auto same = [](char a, char b) {
      return std::toupper(static_cast<unsigned char>(a)) == b;
    };
    for (auto at = std::search(text.begin(), text.end(), kVariable.begin(), kVariable.end(), same);
         at != text.end();
         at = std::search(text.begin(), text.end(), kVariable.begin(), kVariable.end(), same)) {
      POSTERN_TRY_ASSIGN(const std::string version, required("osversion", "OSVersion"));
      const auto place = static_cast<std::size_t>(at - text.begin());
      text.replace(place, kVariable.size(), version);
      if (version.find(kVariable) != std::string::npos) {
        break;
      }
    }
    return text;
  }

  // Packages of the header Include and the variable INCLUDE.
  [[nodiscard]] Words packages() const {
    Words words = split_blanks(header("include"));
    const char* more = std::getenv("INCLUDE");  // NOLINT(concurrency-mt-unsafe): one thread
    for (std::string& word : split_blanks(more != nullptr ? more : "")) {
      words.push_back(std::move(word));
    }
    return words;
  }

  Outcome<std::string> program(const std::string& name, const char* package) const {
    std::string path = find_program(name);
    if (path.empty()) {
      return Problem{.what = "Bootstrap: " + name_ + " needs the program '" + name +
                             "' on this host, and it is not in PATH",
                     .cure = std::string("install the package ") + package +
                             ", or start from an image: Bootstrap: docker"};
    }
    return path;
  }

  Outcome<> start(const std::string& path, const Words& words) const {
    return run_program(path, words, -1, path.substr(path.rfind('/') + 1));
  }

  Outcome<> debootstrap();
  Outcome<> dnf();
  Outcome<> zypper();
  Outcome<> arch();
  Outcome<> busybox();

  std::string name_;
  const std::map<std::string, std::string>& header_;
  std::string root_;
  const BuildOptions& options_;
};

Outcome<> Tool::debootstrap() {
  POSTERN_TRY_ASSIGN(const std::string mirror, url("mirrorurl", "MirrorURL"));
  POSTERN_TRY_ASSIGN(const std::string version, required("osversion", "OSVersion"));
  POSTERN_TRY_ASSIGN(const std::string path, program("debootstrap", "debootstrap"));
  Words include{"apt"};
  for (std::string& package : packages()) {
    include.push_back(std::move(package));
  }
  // --exclude: what a container has no use for.
  return run_with_imitation(
      path,
      {"--variant=minbase", "--exclude=openssl,udev,debconf-i18n,e2fsprogs",
       "--include=" + joined(include, ","), "--arch=" + debian_architecture(options_.architecture),
       version, root_, mirror},
      root_, "debootstrap");
}

Outcome<> Tool::dnf() {
  POSTERN_TRY_ASSIGN(const std::string mirror, url("mirrorurl", "MirrorURL"));
  std::string path = find_program("dnf");
  if (path.empty()) {
    POSTERN_TRY_ASSIGN(path, program("yum", "dnf"));
  }
  const char* key = std::getenv("GPG");  // NOLINT(concurrency-mt-unsafe): one thread
  const std::string check = std::string("enabled=1\ngpgcheck=") + (key != nullptr ? "1" : "0") +
                            "\n" + (key != nullptr ? "gpgkey=" + std::string(key) + "\n" : "");
  std::string text =
      "[main]\ncachedir=/var/cache/postern-bootstrap\nkeepcache=0\nlogfile=/var/log/yum.log\n"
      "installroot=" +
      root_ + "\nplugins=0\nreposdir=/nonexistent\n\n[base]\nname=base\nbaseurl=" + mirror + "\n" +
      check;
  if (!header("updateurl").empty()) {
    POSTERN_TRY_ASSIGN(const std::string update, url("updateurl", "UpdateURL"));
    text += "\n[updates]\nname=updates\nbaseurl=" + update + "\n" + check;
  }
  const std::string configuration = root_ + "/etc/bootstrap-yum.conf";
  POSTERN_TRY(write_file(configuration, text));
  Words words{"--noplugins", "-c", configuration, "--installroot", root_, "-y"};
  if (!header("osversion").empty()) {
    words.push_back("--releasever=" + header("osversion"));
  }
  for (const std::string& option : split_blanks(header("setopt"))) {
    words.insert(words.end(), {"--setopt", option});
  }
  words.insert(words.end(), {"install", "/etc/redhat-release", "coreutils"});
  for (std::string& package : packages()) {
    words.push_back(std::move(package));
  }
  return run_with_imitation(path, words, root_, path.substr(path.rfind('/') + 1));
}

Outcome<> Tool::zypper() {
  POSTERN_TRY_ASSIGN(const std::string mirror, url("mirrorurl", "MirrorURL"));
  POSTERN_TRY_ASSIGN(const std::string path, program("zypper", "zypper"));
  const std::string configuration = root_ + "/etc/zypp/zypp.conf";
  POSTERN_TRY(write_file(configuration, "[main]\ncachedir=/var/cache/zypp-bootstrap\n"));
  std::vector<std::pair<std::string, std::string>> repositories{{"repo", mirror}};
  if (!header("updateurl").empty()) {
    POSTERN_TRY_ASSIGN(const std::string update, url("updateurl", "UpdateURL"));
    repositories.emplace_back("update", update);
  }
  for (int i = 0; i < 20; ++i) {
    if (const std::string key = "otherurl" + std::to_string(i); !header(key.c_str()).empty()) {
      POSTERN_TRY_ASSIGN(const std::string other, url(key.c_str(), "OtherURL"));
      repositories.emplace_back(key, other);
    }
  }
  for (const auto& [name, address] : repositories) {
    POSTERN_TRY(start(path, {"--root", root_, "ar", address, name}));
  }
  POSTERN_TRY(start(path, {"--root", root_, "--gpg-auto-import-keys", "refresh"}));
  Words words{"--non-interactive", "-c", configuration, "--root", root_};
  if (!header("osversion").empty()) {
    words.push_back("--releasever=" + header("osversion"));
  }
  words.insert(words.end(), {"-n", "install", "--auto-agree-with-licenses", "--download-in-advance",
                             "aaa_base"});
  for (std::string& package : packages()) {
    words.push_back(std::move(package));
  }
  return run_with_imitation(path, words, root_, "zypper");
}

Outcome<> Tool::arch() {
  POSTERN_TRY_ASSIGN(const std::string path, program("pacstrap", "arch-install-scripts"));
  Words words;
  if (!header("confurl").empty()) {
    words.insert(words.end(), {"-C", header("confurl")});
  }
  words.insert(words.end(), {"-c", "-G", "-M", root_});
  const Words wanted = packages();
  words.insert(words.end(), wanted.begin(), wanted.end());
  if (wanted.empty()) {
    words.emplace_back("base");
  }
  return run_with_imitation(path, words, root_, "pacstrap");
}

// MirrorURL: of a static busybox, or the path of one on this host.
Outcome<> Tool::busybox() {
  POSTERN_TRY_ASSIGN(const std::string mirror, url("mirrorurl", "MirrorURL"));
  const std::string target = root_ + "/bin/busybox";
  POSTERN_TRY(write_file(root_ + "/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"));
  POSTERN_TRY(write_file(root_ + "/etc/group", "root:x:0:\n"));
  POSTERN_TRY(write_file(root_ + "/etc/hosts", "127.0.0.1 localhost\n"));
  POSTERN_TRY(write_file(target, ""));
  if (mirror.starts_with("http://") || mirror.starts_with("https://")) {
    POSTERN_TRY_ASSIGN(const std::string path, program("curl", "curl"));
    POSTERN_TRY(start(
        path, {"--fail", "--silent", "--show-error", "--location", "--output", target, mirror}));
  } else {
    std::error_code failed;
    std::filesystem::copy_file(mirror, target, std::filesystem::copy_options::overwrite_existing,
                               failed);
    if (failed) {
      return system_problem("copying '" + mirror + "'", failed.value());
    }
  }
  if (::chmod(target.c_str(), 0755) != 0) {
    return system_problem("changing the mode of '" + target + "'", errno);
  }
  return start(target, {"--install", root_ + "/bin"});
}

}  // namespace

bool is_bootstrap_tool(std::string_view name) {
  static constexpr std::array<std::string_view, 6> kNames = {"debootstrap", "yum",  "dnf",
                                                             "zypper",      "arch", "busybox"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

Outcome<> run_bootstrap_tool(const std::string& name,
                             const std::map<std::string, std::string>& header,
                             const std::string& root,
                             const BuildOptions& options) {
  message::info("Running " + name);
  return Tool(name, header, root, options).run();
}

}  // namespace postern::imagebuild
