#include <cstdio>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "frontend/instance/command.h"
#include "frontend/instance/registry.h"
#include "frontend/message/message.h"
#include "frontend/message/table.h"
#include "policy/text/printable.h"

namespace postern::instance {
namespace {

struct Row {
  std::string name;
  Description description;
};

std::string as_json(const std::vector<Row>& rows) {
  auto list = nlohmann::ordered_json::array();
  for (const Row& row : rows) {
    nlohmann::ordered_json one;
    one["instance"] = row.name;
    one["pid"] = row.description.pid;
    one["img"] = row.description.image;
    one["ip"] = "";
    one["logErrPath"] = row.description.err;
    one["logOutPath"] = row.description.out;
    list.push_back(std::move(one));
  }
  nlohmann::ordered_json all;
  all["instances"] = std::move(list);
  // A path may be no UTF-8.
  return text::printable_json(
             all.dump(4, ' ', false, nlohmann::ordered_json::error_handler_t::replace)) +
         "\n";
}

std::string as_text(const std::vector<Row>& rows, bool logs) {
  std::vector<std::vector<std::string>> cells;
  cells.push_back(logs ? std::vector<std::string>{"INSTANCE NAME", "PID", "LOGS"}
                       : std::vector<std::string>{"INSTANCE NAME", "PID", "IP", "IMAGE"});
  for (const Row& row : rows) {
    const std::string pid = std::to_string(row.description.pid);
    if (logs) {
      cells.push_back({row.name, pid, row.description.err});
      cells.push_back({"", "", row.description.out});
    } else {
      cells.push_back({row.name, pid, "", row.description.image});
    }
  }
  return message::table(std::move(cells));
}

}  // namespace

Outcome<int> list(const option::Arguments& arguments, uid_t owner) {
  if (arguments.given("json") && arguments.given("logs")) {
    return Problem{.what = "--json and --logs exclude each other",
                   .cure = "--json shows where the logs are as well"};
  }
  const std::string pattern =
      arguments.positional().empty() ? std::string("*") : arguments.positional().front();
  std::vector<Row> rows;
  for (const Contact& contact : find_all(pattern, owner)) {
    const auto description = describe(contact);
    if (!description) {
      message::warning(description.error().what + "; " + description.error().cure);
      continue;
    }
    rows.push_back({contact.name, *description});
  }
  std::fputs(
      (arguments.given("json") ? as_json(rows) : as_text(rows, arguments.given("logs"))).c_str(),
      stdout);
  if (std::fflush(stdout) != 0) {
    return system_problem("writing to standard output", errno);
  }
  return 0;
}

}  // namespace postern::instance
