#include "frontend/suid/seal_watch.h"

#include <array>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <system_error>

#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/stat.h>

namespace postern::suid {

namespace {

namespace fs = std::filesystem;

// Whether the loop device's backing file is the open image.
bool shows(const fs::path& loop, const struct stat& image) {
  std::ifstream file(loop / "loop" / "backing_file");
  std::string path;
  struct stat found{};
  return std::getline(file, path) && ::stat(path.c_str(), &found) == 0 &&
         found.st_dev == image.st_dev && found.st_ino == image.st_ino;
}

// Whether a device-mapper device lies on such a loop device. Devices may go meanwhile.
bool lies_over(const fs::path& mapping, const struct stat& image) {
  std::error_code error;
  const fs::directory_iterator end;
  for (fs::directory_iterator below(mapping / "slaves", error); below != end;
       below.increment(error)) {
    if (shows(below->path(), image)) {
      return true;
    }
  }
  return false;
}

// "change@/devices/virtual/block/dm-0", then NAME=VALUE, each with its NUL.
bool is_bad_block(std::string_view event, const std::string& mapping) {
  const std::string_view head = event.substr(0, event.find('\0'));
  return head.starts_with("change@") && head.ends_with("/" + mapping) &&
         event.find(std::string_view("\0DM_VERITY_ERR_BLOCK_NR=", 24)) != event.npos;
}

}  // namespace

SealWatch::SealWatch(int image) noexcept
    : image_(image),
      events_(
          ::socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT)) {
  sockaddr_nl address{};
  address.nl_family = AF_NETLINK;
  address.nl_groups = 1;  // of the kernel; 2 is udev's
  // SAFETY: sockaddr_nl is a sockaddr (netlink(7)).
  if (events_.valid() &&
      ::bind(events_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    events_.reset();
  }
}

void SealWatch::find_mapping() {
  struct stat image{};
  std::error_code error;
  if (!events_.valid() || ::fstat(image_, &image) != 0) {
    return;
  }
  const fs::directory_iterator end;
  for (fs::directory_iterator device("/sys/block", error); device != end; device.increment(error)) {
    const std::string name = device->path().filename().string();
    if (name.starts_with("dm-") && lies_over(device->path(), image)) {
      mapping_ = name;
      return;
    }
  }
}

bool SealWatch::saw_bad_block() const {
  std::array<char, 8192> event{};
  bool bad = false;
  while (!mapping_.empty()) {
    sockaddr_nl sender{};
    socklen_t bytes = sizeof sender;
    // SAFETY: as above. Only the kernel has the number 0.
    const ssize_t got = ::recvfrom(events_.get(), event.data(), event.size(), 0,
                                   reinterpret_cast<sockaddr*>(&sender), &bytes);
    if (got < 0 && errno != ENOBUFS) {
      break;
    }
    bad = bad || (got > 0 && sender.nl_pid == 0 &&
                  is_bad_block({event.data(), static_cast<std::size_t>(got)}, mapping_));
  }
  return bad;
}

}  // namespace postern::suid
