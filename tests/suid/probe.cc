// The payload of the suid tests, in the place of postern-init: says what it finds, one fact a line.
// The record (descriptor 3) holds commands: "facts", "list PATH", "read PATH", "write PATH",
// "mkdir PATH", "walk PATH" and "look PATH" (all that this process can learn of a tree), "names
// PATH" (the same without bytes, for file systems whose files change), "wait". Static: it runs in
// any root.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include <sys/stat.h>
#include <sys/xattr.h>

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

namespace {

void print_file(const char* tag, const std::string& path) {
  FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) {
    std::printf("%s %s error %s\n", tag, path.c_str(), std::strerror(errno));
    return;
  }
  char line[1024];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    std::printf("%s %s", tag, line);
  }
  std::fclose(file);
}

void print_list(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) {
    std::printf("list %s error %s\n", path.c_str(), std::strerror(errno));
    return;
  }
  while (const dirent* entry = ::readdir(directory)) {
    std::printf("list %s/%s\n", path.c_str(), entry->d_name);
  }
  ::closedir(directory);
}

void print_descriptors() {
  for (int fd = 0; fd < 1024; ++fd) {
    char target[4096] = {};
    const std::string link = "/proc/self/fd/" + std::to_string(fd);
    if (::fcntl(fd, F_GETFD) >= 0) {
      (void)!::readlink(link.c_str(), target, sizeof target - 1);
      std::printf("fd %d %s\n", fd, target);
    }
  }
}

void facts() {
  char cwd[4096] = {};
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  std::printf("cwd %s\nhostname %s\npid %d\n",
              ::getcwd(cwd, sizeof cwd) != nullptr ? cwd : std::strerror(errno), host, ::getpid());
  print_file("status", "/proc/self/status");
  print_file("limit", "/proc/self/limits");
  print_file("mount", "/proc/self/mountinfo");
  print_descriptors();
}

// Prints the attributes that the process can read, and their values.
void walk_attributes(const std::string& path) {
  char names[4096];
  const ssize_t bytes = ::llistxattr(path.c_str(), names, sizeof names);
  for (ssize_t at = 0; at < bytes; at += static_cast<ssize_t>(std::strlen(names + at)) + 1) {
    char value[4096];
    const ssize_t got = ::lgetxattr(path.c_str(), names + at, value, sizeof value);
    std::printf("walk attribute %s %s %zd ", path.c_str(), names + at, got);
    for (ssize_t i = 0; i < got; ++i) {
      std::printf("%02x", static_cast<unsigned char>(value[i]));
    }
    std::printf("\n");
  }
}

void walk_file(const std::string& path, bool with_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
  if (fd >= 0) {
    char text[64] = {};
    const ssize_t got = with_bytes ? ::read(fd, text, sizeof text - 1) : 0;
    std::printf("walk open %s\n", path.c_str());
    if (got > 0) {
      std::printf("walk bytes %s %s\n", path.c_str(), text);
    }
    ::close(fd);
  }
  if (::access(path.c_str(), X_OK) == 0) {
    std::printf("walk execute %s\n", path.c_str());
  }
}

// One line for each thing that succeeds: what does not is no line.
void walk(const std::string& path, bool with_bytes, int depth) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) {
    return;
  }
  const bool directory = S_ISDIR(status.st_mode);
  std::printf("walk stat %s %o %u %u %lld\n", path.c_str(), status.st_mode, status.st_uid,
              status.st_gid, with_bytes && !directory ? static_cast<long long>(status.st_size) : 0);
  walk_attributes(path);
  if (S_ISREG(status.st_mode)) {
    walk_file(path, with_bytes);
  }
  DIR* const entries = directory ? ::opendir(path.c_str()) : nullptr;
  if (entries == nullptr) {
    return;
  }
  std::printf("walk list %s\n", path.c_str());
  while (const dirent* entry = ::readdir(entries)) {
    const std::string name = entry->d_name;
    if (name == "." || name == "..") {
      continue;
    }
    std::printf("walk name %s/%s\n", path.c_str(), name.c_str());
    if (depth > 0) {
      walk(path + "/" + name, with_bytes, depth - 1);
    }
  }
  ::closedir(entries);
}

void run(const std::string& command, const std::string& path) {
  if (command == "facts") {
    facts();
  } else if (command == "list") {
    print_list(path);
  } else if (command == "read") {
    print_file("read", path);
  } else if (command == "write") {
    const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    std::printf("write %s %s\n", path.c_str(),
                fd >= 0 && ::write(fd, "x", 1) == 1 ? "done" : std::strerror(errno));
  } else if (command == "mkdir") {
    std::printf("mkdir %s %s\n", path.c_str(),
                ::mkdir(path.c_str(), 0755) == 0 ? "done" : std::strerror(errno));
  } else if (command == "walk" || command == "names") {
    walk(path, command == "walk", command == "walk" ? 8 : 4);
  } else if (command == "look") {  // without knowing its name from a listing
    walk(path, true, 0);
  } else if (command == "wait") {
    std::fflush(stdout);
    ::pause();
  }
}

}  // namespace

int main(int argc, char** argv, char** environment) {
  std::printf("argv %d %s\nenvironment %s\n", argc, argv[0],
              environment[0] != nullptr ? environment[0] : "empty");
  FILE* record = ::fdopen(3, "re");
  char line[4200];
  while (record != nullptr && std::fgets(line, sizeof line, record) != nullptr) {
    line[std::strcspn(line, "\n")] = '\0';
    char* space = std::strchr(line, ' ');
    const std::string path = space != nullptr ? space + 1 : "";
    if (space != nullptr) {
      *space = '\0';
    }
    run(line, path);
  }
  std::fflush(stdout);
  return 7;
}
