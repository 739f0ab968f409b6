// The payload of the suid tests, in the place of postern-init: says what it finds, one fact a line.
// The record (descriptor 3) holds commands: "facts", "list PATH", "read PATH", "write PATH",
// "mkdir PATH", "wait". Static: it runs in any root.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>

#include <sys/stat.h>

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
