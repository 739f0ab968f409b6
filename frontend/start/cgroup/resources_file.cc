// --apply-cgroups: the resources of the OCI runtime specification, written as TOML.
#include <array>
#include <functional>
#include <limits>

#include "frontend/start/cgroup/resources.h"
#include "policy/config/toml_document.h"
#include "policy/text/printable.h"

namespace postern::start::cgroup {
namespace {

using config::TomlEntry;
using config::TomlTable;

constexpr std::string_view kOldOnly =
    "only control groups version 1 have it, and this host's limits are version 2's";

class File {
 public:
  File(std::string name, std::vector<std::string>& warnings)
      : name_(std::move(name)), warnings_(warnings) {}

  Outcome<Resources> read(const config::TomlDocument& document) && {
    for (const TomlTable& table : document.tables) {
      POSTERN_TRY(read_table(table));
    }
    return std::move(out_);
  }

 private:
  Problem problem(config::Place place, const std::string& what, std::string cure = {}) const {
    return config::problem_at(name_, place, what, std::move(cure));
  }

  Problem unknown(const TomlTable& table, const TomlEntry& entry) const {
    return problem(entry.place,
                   "there is no key \"" + text::printable(entry.key) + "\" in [" +
                       text::printable(table.name) + "]",
                   "the keys are those of the OCI runtime specification, config-linux.md");
  }

  Problem old_only(const TomlTable& table, const TomlEntry& entry) const {
    return problem(entry.place, table.name + "." + entry.key + ": " + std::string(kOldOnly),
                   "take it out of the file");
  }

  // A whole number from `least` on; `most` is the largest that the kernel's file takes.
  template <class T>
  Outcome<T> number(const TomlEntry& entry,
                    std::int64_t least,
                    std::int64_t most = std::numeric_limits<std::int64_t>::max()) const {
    const auto* const value = std::get_if<std::int64_t>(&entry.value);
    if (value == nullptr || *value < least || *value > most) {
      return problem(
          entry.place,
          "\"" + entry.key + "\" must be a whole number from " + std::to_string(least) +
              (most == std::numeric_limits<std::int64_t>::max() ? " on"
                                                                : " to " + std::to_string(most)));
    }
    return static_cast<T>(*value);
  }

  Outcome<std::string> words(const TomlEntry& entry) const {
    const auto* const value = std::get_if<std::string>(&entry.value);
    if (value == nullptr || value->empty()) {
      return problem(entry.place, "\"" + entry.key + "\" must be a text in quotes");
    }
    return *value;
  }

  Outcome<std::string> cpu_list(const TomlEntry& entry) const {
    POSTERN_TRY_ASSIGN(std::string text, words(entry));
    if (!parse_cpu_list(text)) {
      return problem(entry.place, "\"" + entry.key +
                                      "\" must be a list of numbers and ranges, such as \"0-3,8\"");
    }
    return text;
  }

  Outcome<> read_table(const TomlTable& table) {
    using Reader = Outcome<> (File::*)(const TomlTable&);

    struct Row {
      std::string_view name;
      Reader reader;
    };

    static constexpr std::array kTables = std::to_array<Row>({
        {"", &File::top},
        {"memory", &File::memory},
        {"cpu", &File::cpu},
        {"pids", &File::pids},
        {"blockIO", &File::block},
        {"blockIO.weightDevice", &File::block_device},
        {"blockIO.throttleReadBpsDevice", &File::block_device},
        {"blockIO.throttleWriteBpsDevice", &File::block_device},
        {"blockIO.throttleReadIOPSDevice", &File::block_device},
        {"blockIO.throttleWriteIOPSDevice", &File::block_device},
        {"hugepageLimits", &File::huge_pages},
        {"network", &File::network},
        {"rdma", &File::rdma_devices},
        {"unified", &File::unified},
        {"devices", &File::devices},
    });
    for (const Row& row : kTables) {
      if (row.name == table.name) {
        return (this->*row.reader)(table);
      }
    }
    if (table.name.starts_with("rdma.")) {
      return rdma(table);
    }
    return problem(table.place, "there is no table \"" + text::printable(table.name) + "\"",
                   "the tables are memory, cpu, pids, blockIO, hugepageLimits, rdma, unified");
  }

  Outcome<> top(const TomlTable& table) {
    for (const TomlEntry& entry : table.entries) {
      // An empty list of tables is no table.
      const auto* const list = std::get_if<std::vector<std::string>>(&entry.value);
      if ((entry.key != "devices" && entry.key != "hugepageLimits") || list == nullptr ||
          !list->empty()) {
        return problem(entry.place, "there is no key \"" + text::printable(entry.key) + "\"",
                       "limits stand in tables, such as [memory]");
      }
    }
    return Ok{};
  }

  Outcome<> memory(const TomlTable& table) {
    for (const TomlEntry& entry : table.entries) {
      if (entry.key == "limit") {
        POSTERN_TRY_ASSIGN(out_.memory, limit(entry));
      } else if (entry.key == "swap") {
        POSTERN_TRY_ASSIGN(out_.memory_swap, limit(entry));
      } else if (entry.key == "reservation") {
        POSTERN_TRY_ASSIGN(out_.memory_reservation, limit(entry));
      } else if (entry.key == "disableOOMKiller" || entry.key == "useHierarchy" ||
                 entry.key == "checkBeforeUpdate") {
        const bool* const on = std::get_if<bool>(&entry.value);
        if (on == nullptr) {
          return problem(entry.place, "\"" + entry.key + "\" must be true or false");
        }
        if (*on && entry.key == "disableOOMKiller") {
          return old_only(table, entry);
        }
      } else if (entry.key == "kernel" || entry.key == "kernelTCP" || entry.key == "swappiness") {
        return old_only(table, entry);
      } else {
        return unknown(table, entry);
      }
    }
    return Ok{};
  }

  Outcome<std::int64_t> limit(const TomlEntry& entry) const {
    POSTERN_TRY_ASSIGN(const std::int64_t bytes, number<std::int64_t>(entry, kUnlimited));
    if (bytes == 0) {
      return problem(entry.place,
                     "\"" + entry.key + "\" must be a number of bytes, or -1 for none");
    }
    return bytes;
  }

  Outcome<> cpu(const TomlTable& table) {
    for (const TomlEntry& entry : table.entries) {
      if (entry.key == "shares") {
        POSTERN_TRY_ASSIGN(out_.cpu_shares, number<std::uint64_t>(entry, 2, 262'144));
      } else if (entry.key == "quota") {
        POSTERN_TRY_ASSIGN(out_.cpu_quota, number<std::int64_t>(entry, kUnlimited));
      } else if (entry.key == "period") {
        POSTERN_TRY_ASSIGN(out_.cpu_period, number<std::uint64_t>(entry, 1'000, 1'000'000));
      } else if (entry.key == "cpus") {
        POSTERN_TRY_ASSIGN(out_.cpuset_cpus, cpu_list(entry));
      } else if (entry.key == "mems") {
        POSTERN_TRY_ASSIGN(out_.cpuset_mems, cpu_list(entry));
      } else if (entry.key == "realtimeRuntime" || entry.key == "realtimePeriod") {
        return old_only(table, entry);
      } else {
        return unknown(table, entry);
      }
    }
    return Ok{};
  }

  Outcome<> pids(const TomlTable& table) {
    for (const TomlEntry& entry : table.entries) {
      if (entry.key != "limit") {
        return unknown(table, entry);
      }
      POSTERN_TRY_ASSIGN(out_.pids, number<std::int64_t>(entry, kUnlimited));
    }
    return Ok{};
  }

  Outcome<> block(const TomlTable& table) {
    for (const TomlEntry& entry : table.entries) {
      if (entry.key == "leafWeight") {
        return old_only(table, entry);
      }
      if (entry.key != "weight") {
        return unknown(table, entry);
      }
      POSTERN_TRY_ASSIGN(out_.blkio_weight, number<std::uint64_t>(entry, 10, 1'000));
    }
    return Ok{};
  }

  Outcome<> block_device(const TomlTable& table) {
    constexpr std::int64_t kMost = std::numeric_limits<std::uint32_t>::max();
    const std::string_view kind = std::string_view(table.name).substr(table.name.find('.') + 1);
    const bool is_weight = kind == "weightDevice";
    DeviceValue device{.key = kind == "throttleReadBpsDevice"     ? "rbps"
                              : kind == "throttleWriteBpsDevice"  ? "wbps"
                              : kind == "throttleReadIOPSDevice"  ? "riops"
                              : kind == "throttleWriteIOPSDevice" ? "wiops"
                                                                  : ""};
    for (const TomlEntry& entry : table.entries) {
      if (entry.key == "major") {
        POSTERN_TRY_ASSIGN(device.major, number<unsigned>(entry, 0, kMost));
      } else if (entry.key == "minor") {
        POSTERN_TRY_ASSIGN(device.minor, number<unsigned>(entry, 0, kMost));
      } else if (is_weight && entry.key == "weight") {
        POSTERN_TRY_ASSIGN(device.value, number<std::uint64_t>(entry, 10, 1'000));
      } else if (!is_weight && entry.key == "rate") {
        POSTERN_TRY_ASSIGN(device.value, number<std::uint64_t>(entry, 1));
      } else if (is_weight && entry.key == "leafWeight") {
        return old_only(table, entry);
      } else {
        return unknown(table, entry);
      }
    }
    if (device.value == 0) {
      return problem(table.place,
                     std::string(is_weight ? "\"weight\"" : "\"rate\"") + " is missing");
    }
    (is_weight ? out_.blkio_weight_devices : out_.blkio_rates).push_back(device);
    return Ok{};
  }

  Outcome<> huge_pages(const TomlTable& table) {
    std::string size;
    std::string bytes;
    for (const TomlEntry& entry : table.entries) {
      if (entry.key == "pageSize") {
        POSTERN_TRY_ASSIGN(size, words(entry));
      } else if (entry.key == "limit") {
        POSTERN_TRY_ASSIGN(const std::uint64_t limit, number<std::uint64_t>(entry, 0));
        bytes = std::to_string(limit);
      } else {
        return unknown(table, entry);
      }
    }
    const bool is_size = size.find_first_not_of("0123456789KMGB") == size.npos && !size.empty();
    if (!is_size || bytes.empty()) {
      return problem(table.place, "pageSize, such as \"2MB\", and limit are needed");
    }
    out_.files.emplace_back("hugetlb." + size + ".max", bytes);
    return Ok{};
  }

  Outcome<> rdma_devices(const TomlTable& table) {
    return table.entries.empty() ? Outcome<>(Ok{}) : Outcome<>(unknown(table, table.entries[0]));
  }

  Outcome<> rdma(const TomlTable& table) {
    std::string line = table.name.substr(table.name.find('.') + 1);
    const std::string_view letters =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
    if (line.empty() || line.find_first_not_of(letters) != line.npos) {
      return problem(table.place, "[rdma.NAME] must name a device");
    }
    for (const TomlEntry& entry : table.entries) {
      if (entry.key != "hcaHandles" && entry.key != "hcaObjects") {
        return unknown(table, entry);
      }
      POSTERN_TRY_ASSIGN(const std::int64_t most, number<std::int64_t>(entry, 0, 2'147'483'647));
      line += (entry.key == "hcaHandles" ? " hca_handle=" : " hca_object=") + std::to_string(most);
    }
    out_.files.emplace_back("rdma.max", line);
    return Ok{};
  }

  Outcome<> network(const TomlTable& table) {
    return table.entries.empty() ? Outcome<>(Ok{}) : Outcome<>(old_only(table, table.entries[0]));
  }

  // Files as the kernel names them. "cgroup." files are not limits: they freeze, kill and move.
  Outcome<> unified(const TomlTable& table) {
    constexpr std::string_view kLetters =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.";
    for (const TomlEntry& entry : table.entries) {
      const std::string_view key = entry.key;
      if (key.find_first_not_of(kLetters) != key.npos || key.find('.') == key.npos ||
          key.starts_with('.') || key.starts_with("cgroup.")) {
        return problem(entry.place, "\"" + text::printable(key) + "\" is not the file of a limit",
                       "name one as the kernel does, such as \"memory.high\"");
      }
      POSTERN_TRY_ASSIGN(std::string value, words(entry));
      out_.files.emplace_back(key, std::move(value));
    }
    return Ok{};
  }

  Outcome<> devices(const TomlTable& table) {
    if (!warned_) {
      warnings_.push_back(name_ + ":" + std::to_string(table.place.line) +
                          ": rules for devices have no effect: a user cannot make them, and the "
                          "rights of device files hold inside as outside");
      warned_ = true;
    }
    return Ok{};
  }

  std::string name_;
  std::vector<std::string>& warnings_;
  bool warned_ = false;
  Resources out_;
};

}  // namespace

Outcome<Resources> parse_resources(std::string_view text,
                                   const std::string& file,
                                   std::vector<std::string>& warnings) {
  POSTERN_TRY_ASSIGN(const config::TomlDocument document, config::parse_toml(text, file));
  return File(file, warnings).read(document);
}

}  // namespace postern::start::cgroup
