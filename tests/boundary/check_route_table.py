"""The table "HOW AN IMAGE RUNS" of postern-security(7) is the one that the rules make.

With --write as the third argument the page is brought up to date.
"""
import subprocess
import sys

program, root = sys.argv[1:3]
page = f"{root}/man/postern-security.7.scd"
BEGIN = "; The table is made by tests/boundary/check_route_table.py.\n"
END = "; The end of the table.\n"
made = subprocess.run([program], check=True, capture_output=True, text=True).stdout
with open(page, encoding="utf-8") as file:
    text = file.read()
begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
if sys.argv[3:] == ["--write"]:
    with open(page, "w", encoding="utf-8") as file:
        file.write(text[:begin] + "\n" + made + "\n" + text[end:])
    sys.exit(0)
good = text[begin:end].strip("\n") == made.strip("\n")
print("1..1")
print(("ok" if good else "not ok") + " 1 - the page has the table that the rules make")
if not good:
    print(f"# bring it up to date: python3 {sys.argv[0]} {program} {root} --write")
sys.exit(0 if good else 1)
