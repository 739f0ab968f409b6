// From facts to advice: pure functions.
#pragma once

#include <string>
#include <vector>

#include "frontend/doctor/facts.h"

namespace postern::doctor {

struct Check {
  std::string name;  // stable, for --json: "user-namespaces"
  bool works = false;
  bool needed = false;  // an image cannot run in user-namespace mode without it
  std::string detail;   // one line: what was found
  std::string cure;     // empty where there is nothing to mend
};

struct Report {
  std::vector<Check> checks;
  bool user_namespace_mode = false;  // an image can run this way
  bool suid_mode = false;

  [[nodiscard]] bool can_run() const { return user_namespace_mode || suid_mode; }
};

Report examine(const Facts& facts);

// "works    name: detail" or "doesn't  name: detail; cure", and a last line that sums up.
std::string to_text(const Report& report);

// {"can_run":…,"user_namespace_mode":…,"suid_mode":…,"checks":[{"name":…,"works":…,"needed":…,
// "detail":…,"cure":…},…]} and a line feed.
std::string to_json(const Report& report);

// Prometheus' text format (exposition_formats.md), for node_exporter's textfile collector.
// `image_servers`: how many run on this host.
std::string to_metrics(const Report& report, const Facts& facts, unsigned image_servers);

}  // namespace postern::doctor
