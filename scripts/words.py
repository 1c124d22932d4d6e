"""The words of the generated parts of both READMEs, in both languages of the house."""

from __future__ import annotations

from tidemill.bench import Text

SYSTEMS_HEADER = (
    Text("system", "系统"),
    Text("paper", "论文"),
    Text("headline, measured here", "主要论断(本机实测)"),
    Text("holds", "成立"),
)
COLON = Text(": ", ":")
SAID_BY_PAPER = Text(" (paper: {})", "(论文:{})")
COUNTED = Text("{holding} of {total}", "{total} 条中 {holding} 条")
FOLDERS = {
    "deploy": Text(
        "for whoever runs the model server: a systemd unit, a Grafana dashboard",
        "供运行模型服务器者使用:systemd 单元与 Grafana 仪表盘",
    ),
    "docs": Text(
        "tutorial, how-to, reference, one page per system, the stored measurements",
        "教程、操作指南、参考、每个系统一页、存储的测量结果",
    ),
    "examples": Text("one short program per system", "每个系统一个简短程序"),
    "scripts": Text("set-up, static checks, rendering of this page", "安装、静态检查、本页的生成"),
    "tests": Text(
        "as the sources, plus style, documents and conformance",
        "与源码同构,另有风格、文档与一致性测试",
    ),
}
ROOMS_ZH = {
    "bench": "论断、测量、存储与绘图的唯一方式:每个系统、每个页面都建在它之上",
    "cli": "命令行:用到哪个命令才导入哪个",
    "errors": "tidemill 有意抛出的全部错误,一棵树",
    "feed": "论文:从文件读入、保存、列出、检索,以及输出的订阅源",
    "models": "解码器语言模型:文件、分词器、压缩权重,以及运行它们的原生单步",
    "serve": "语言模型服务器:一个调度器,既用于真实循环也用于仿真",
    "native": "各模块的 C++ 内核,为两种指令集编译,导入时选择",
    "systems": "系统,每篇论文一个包,互不导入",
    "testing": "`check_system`:每个系统(包括第三方的)都必须通过的一致性测试",
    "web": "摘要网站:论文、论断、运行按钮;服务器端渲染,没有 JavaScript 也完整",
}
"""What the first sentence of each room says, for the page in Chinese."""
