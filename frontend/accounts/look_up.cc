// Accounts for a program that is linked statically, and so loads no module of the name service: the
// files, and for what is not in them, a program that asks the C library.
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "frontend/accounts/words.h"
#include "frontend/system/libexec.h"
#include "frontend/system/read_file.h"
#include "frontend/system/spawn.h"
#include "policy/accounts/accounts.h"
#include "policy/accounts/files.h"
#include "policy/text/split.h"

namespace postern::accounts {
namespace {

constexpr std::size_t kMostOutputBytes = std::size_t{4} << 20;

// One of the two files, and what is asked when it has no answer; read when it is needed first.
class Database {
 public:
  Database(const char* name, const char* path) : name_(name), path_(path) {}

  // Nothing: somebody else must be asked.
  std::optional<std::string> answer(std::string_view settings, const Question& question) {
    if (!text_) {
      services_ = services_of(settings, name_);
      text_ = services_.files_first ? system::read_small_file(path_).value_or("") : "";
    }
    std::string line = line_in(*text_, question);
    return line.empty() && services_.others ? std::nullopt : std::optional(std::move(line));
  }

 private:
  const char* name_;
  const char* path_;
  Services services_;
  std::optional<std::string> text_;
};

// Fills in the lines of the questions with the numbers `open`; what the program cannot say stays
// "": a node whose name service is broken still starts containers.
void ask_program(std::span<const Question> questions,
                 const std::vector<std::size_t>& open,
                 std::vector<std::string>& lines) {
  system::Command command{.program = system::libexec_program("postern-accounts"),
                          .words = {"postern-accounts"}};
  for (const std::size_t i : open) {
    command.words.emplace_back(kWords[static_cast<std::size_t>(questions[i].key)]);
    command.words.push_back(questions[i].value);
  }
  const Result<system::Finished> finished =
      system::run_and_read(std::move(command), kMostOutputBytes);
  if (finished && finished->status == 0) {
    auto at = open.begin();
    text::for_each_line(finished->output, [&](std::string_view line) {
      if (at != open.end()) {
        lines[*at++] = line;
      }
    });
  }
}

}  // namespace

std::vector<std::string> look_up(std::span<const Question> questions) {
  const std::string settings = system::read_small_file("/etc/nsswitch.conf").value_or("");
  Database users("passwd", "/etc/passwd");
  Database groups("group", "/etc/group");
  std::vector<std::string> lines(questions.size());
  std::vector<std::size_t> open;
  for (std::size_t i = 0; i < questions.size(); ++i) {
    const Key key = questions[i].key;
    Database& database = key == Key::kUserId || key == Key::kUserName ? users : groups;
    std::optional<std::string> line = database.answer(settings, questions[i]);
    if (line) {
      lines[i] = *std::move(line);
    } else {
      open.push_back(i);
    }
  }
  if (!open.empty()) {
    ask_program(questions, open, lines);
  }
  return lines;
}

}  // namespace postern::accounts
