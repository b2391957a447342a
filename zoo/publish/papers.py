"""The papers that routers come from, by router, as BibTeX."""

PAPERS = {
    "soft": """@article{puigcerver2023sparse,
  title = {From Sparse to Soft Mixtures of Experts},
  author = {Puigcerver, Joan and Riquelme, Carlos and Mustafa, Basil and
            Houlsby, Neil},
  journal = {arXiv:2308.00951},
  year = {2023}
}""",
    "expert_choice": """@article{zhou2022mixture,
  title = {Mixture-of-Experts with Expert Choice Routing},
  author = {Zhou, Yanqi and Lei, Tao and Liu, Hanxiao and Du, Nan and
            Huang, Yanping and Zhao, Vincent and Dai, Andrew and Chen, Zhifeng
            and Le, Quoc and Laudon, James},
  journal = {arXiv:2202.09368},
  year = {2022}
}""",
    "token_choice": """@article{riquelme2021scaling,
  title = {Scaling Vision with Sparse Mixture of Experts},
  author = {Riquelme, Carlos and Puigcerver, Joan and Mustafa, Basil and
            Neumann, Maxim and Jenatton, Rodolphe and Susano Pinto, Andr{\\'e}
            and Keysers, Daniel and Houlsby, Neil},
  journal = {arXiv:2106.05974},
  year = {2021}
}""",
    "mixture_of_tokens": """@article{antoniak2023mixture,
  title = {Mixture of Tokens: Continuous {MoE} through Cross-Example
           Aggregation},
  author = {Antoniak, Szymon and Krutul, Micha{\\l} and Pi{\\'o}ro, Maciej and
            Krajewski, Jakub and Ludziejewski, Jan and Ciebiera, Kamil and
            Kr{\\'o}l, Krystian and Odrzyg{\\'o}{\\'z}d{\\'z}, Tomasz and
            Cygan, Marek and Jaszczur, Sebastian},
  journal = {arXiv:2310.15961},
  year = {2023}
}""",
}
